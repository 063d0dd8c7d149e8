"""Peak memory of a call: the most bytes alive at once among those that torch allocated while it ran, result included.

On the CPU these are the allocations in the profiler's trace, counted to the byte: unlike the resident set, they do not depend on
what the C library keeps of freed memory, and unlike `tracemalloc` they see tensors. What C++ code would allocate by itself is not
seen. On CUDA it is `torch.cuda.max_memory_allocated`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from timing import Call

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when the profiler is first used: errors only


def peak_bytes(call: Call, device: str) -> int:
    """Return the most bytes alive at once in a run of `call`, beyond those alive before it. The call must be warm."""
    with call.context():
        return _peak_on_cuda(call) if device == "cuda" else _peak_on_cpu(call)


def highest(changes: Iterable[int]) -> int:
    """Return the highest sum of the first so many of `changes`, 0 at least."""
    live = top = 0
    for change in changes:
        live += change
        top = max(top, live)
    return top


def _peak_on_cuda(call: Call) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call.run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_cpu(call: Call) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call.run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    allocations = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    return highest(event["args"]["Bytes"] for event in allocations)
