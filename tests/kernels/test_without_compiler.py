"""Machines without a compiler, without /proc, or without a library that could be built: everything works, by tensor operations."""

import shutil
from pathlib import Path

import pytest
import torch

from sparsek.kernels import Backend, native, use_backends
from sparsek.kernels.native import _build as build_module
from sparsek.kernels.native import _dependent_rounding as rounding_module
from sparsek.sampling import dependent_rounding


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


def test_no_compiler_on_the_path_is_said(no_compiler):
    assert build_module.find_compiler() is None
    with pytest.raises(
        native.BuildError, match=r"no C\+\+ compiler was found \(set CXX, or install g\+\+ or clang\+\+\)"
    ):
        native.build("sigmoid_topk")


def test_the_compiler_that_cxx_names_comes_first(monkeypatch, tmp_path):
    for name in ("mine", "c++", "clang++"):
        tool = tmp_path / name
        tool.write_text("#!/bin/sh\n", encoding="utf-8")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "mine")
    assert build_module.find_compiler() == str(tmp_path / "mine")
    monkeypatch.setenv("CXX", "missing")
    assert build_module.find_compiler() == str(tmp_path / "c++")
    (tmp_path / "c++").unlink()
    assert build_module.find_compiler() == shutil.which("clang++") == str(tmp_path / "clang++")


def test_the_processor_decides_the_fingerprint_with_and_without_proc(monkeypatch):
    """Two processors never share a library, and a system without /proc/cpuinfo is named by its platform."""
    compiler = shutil.which("true")
    with_proc = build_module._fingerprint("pivotal", compiler)
    assert with_proc == build_module._fingerprint("pivotal", compiler)
    assert with_proc != build_module._fingerprint("systematic", compiler)

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(build_module.platform, "machine", lambda: "abacus")
    assert build_module._processor().startswith("abacus")
    one = build_module._fingerprint("pivotal", compiler)
    monkeypatch.setattr(build_module.platform, "machine", lambda: "slide rule")
    assert len({with_proc, one, build_module._fingerprint("pivotal", compiler)}) == 3


def test_dependent_rounding_without_its_library(monkeypatch):
    weights = torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.5, 1.0]])
    monkeypatch.setattr(rounding_module, "load", lambda name: None)
    with use_backends(Backend.NATIVE):
        assert not native.dependent_rounding(*(torch.zeros(1, 1, 1).long() for _ in range(4)))
        rounded = dependent_rounding(weights, generator=torch.Generator().manual_seed(0))
    assert rounded.sum(-1).tolist() == [2, 2]
    assert rounded.sum(-2).tolist() == [1, 1, 2]
