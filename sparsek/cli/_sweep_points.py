"""The points of a sweep in wandb's format: a grid, or draws that the file alone settles."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_ARGUMENTS = "${args}"
_DRAWS = ("uniform", "log_uniform_values", "int_uniform", "categorical", "constant")
_KNOWN = {"program", "name", "description", "method", "metric", "command", "parameters", "run_cap", "project", "entity"}


@dataclass(frozen=True)
class Sweep:
    """A sweep, as its file says."""

    name: str
    command: tuple[str, ...]
    """Words; `${args}` stands for `--name=value` of every parameter."""
    metric: str
    minimize: bool
    points: tuple[Mapping[str, Any], ...]
    """Values by name of the parameter."""

    def words(self, point: Mapping[str, Any], more: Sequence[str] = ()) -> list[str]:
        """The command of a point, with further words after its own."""
        own = [f"--{name}={_word(value)}" for name, value in point.items()]
        replaced = [[*own, *more] if word == _ARGUMENTS else [word] for word in self.command]
        return [word for words in replaced for word in words if word != "${env}"]


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep.

    Raises:
        ValueError: If the file is no sweep that can be run without wandb.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a sweep: {error}") from error
    return _sweep(content, str(path))


def _sweep(content: Any, path: str) -> Sweep:
    if not isinstance(content, Mapping) or not isinstance(content.get("parameters"), Mapping):
        raise ValueError(f"{path!r} must be a mapping with `parameters`")
    unknown = sorted(set(content) - _KNOWN)
    if unknown:
        raise ValueError(
            f"{path!r} must have no other entries than {', '.join(sorted(_KNOWN))}, got {', '.join(unknown)}"
        )
    command = content.get("command")
    if not isinstance(command, list) or _ARGUMENTS not in command:
        raise ValueError(f"command in {path!r} must be a list of words with {_ARGUMENTS!r} among them, got {command!r}")
    metric = content.get("metric", {})
    if not isinstance(metric, Mapping) or not metric.get("name") or metric.get("goal") not in ("minimize", "maximize"):
        raise ValueError(f"metric in {path!r} must have a name and a goal (minimize or maximize), got {metric!r}")
    name = str(content.get("name", Path(path).stem))
    return Sweep(
        name, tuple(map(str, command)), metric["name"], metric["goal"] == "minimize", tuple(_points(content, path))
    )


def _points(content: Mapping[str, Any], path: str) -> Iterator[dict[str, Any]]:
    parameters, method = content["parameters"], content.get("method")
    if method == "grid":
        values = [_all_values(name, parameter, path) for name, parameter in parameters.items()]
        grid = (dict(zip(parameters, combination, strict=True)) for combination in itertools.product(*values))
        yield from itertools.islice(grid, content.get("run_cap"))
    elif method == "random":
        cap = content.get("run_cap")
        if not isinstance(cap, int) or cap < 1:
            raise ValueError(f"run_cap in {path!r} must be at least 1 for random draws, got {cap!r}")
        source = random.Random(json.dumps(parameters, sort_keys=True))  # the same draws in every process
        for _ in range(cap):
            yield {name: _draw(name, parameter, source, path) for name, parameter in parameters.items()}
    else:
        raise ValueError(f"method in {path!r} must be grid or random to run without wandb's server, got {method!r}")


def _all_values(name: str, parameter: Any, path: str) -> list[Any]:
    if isinstance(parameter, Mapping) and isinstance(parameter.get("values"), list) and parameter["values"]:
        return list(parameter["values"])
    if isinstance(parameter, Mapping) and "value" in parameter:
        return [parameter["value"]]
    raise ValueError(f"parameter {name!r} of a grid in {path!r} must have `values` or a `value`, got {parameter!r}")


def _draw(name: str, parameter: Any, source: random.Random, path: str) -> Any:
    if isinstance(parameter, Mapping) and ("values" in parameter or "value" in parameter):
        return source.choice(_all_values(name, parameter, path))
    if not isinstance(parameter, Mapping) or "min" not in parameter or "max" not in parameter:
        raise ValueError(
            f"parameter {name!r} in {path!r} must have `values`, a `value`, or `min` and `max`, got {parameter!r}"
        )
    low, high, kind = parameter["min"], parameter["max"], parameter.get("distribution")
    if kind is None:
        kind = "int_uniform" if isinstance(low, int) and isinstance(high, int) else "uniform"
    if kind not in _DRAWS:
        raise ValueError(f"distribution of {name!r} in {path!r} must be one of {', '.join(_DRAWS)}, got {kind!r}")
    if kind == "int_uniform":
        return source.randint(low, high)
    if kind == "log_uniform_values":
        return float(f"{math.exp(source.uniform(math.log(low), math.log(high))):.6g}")
    return float(f"{source.uniform(low, high):.6g}")


def identity(point: Mapping[str, Any], more: Sequence[str]) -> str:
    """A name for a point that depends on its values and the further words alone."""
    text = json.dumps([dict(point), list(more)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
