"""torch.compile of the model, and the cache folder of compiled code and kernel timings.

A shallow model is compiled as one function, because each call of a compiled function costs a
quarter of a millisecond of Python. A deep one would take minutes that way; its block is compiled
once and called for every layer.
"""

import copy
import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from train.engine.device import ComputeDevice
from train.model.transformer import MODELS_KEPT, Transformer, Weights

WHOLE_UP_TO_LAYERS = 4
"""Deepest model that is compiled as one function."""

RECOMPILE_LIMIT = 64
"""Shapes, batches and stacks that one process compiles. Beyond torch's default of 8 it would run
eagerly without a word."""

CACHE = "WINDTUNNEL_CACHE"
"""Environment variable with the path of the cache folder."""

Losses = Callable[[Weights, Tensor, Tensor], Tensor]


def can_compile(compute: ComputeDevice) -> bool:
    """Whether torch.compile finds its tools.

    For CPUs a C++ compiler; for CUDA Triton, and a C compiler with Python's headers, with which
    Triton builds its launchers.
    """
    if not compute.is_cuda:
        return _is_there(os.environ.get("CXX", "g++"))
    own = os.environ.get("CC")
    has_compiler = any(_is_there(name) for name in ([own] if own else ["gcc", "clang"]))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return has_compiler and headers.exists() and has_triton()


def _is_there(command: str) -> bool:
    return shutil.which(command) is not None


@lru_cache(maxsize=MODELS_KEPT)
def compile_model(model: Transformer) -> Losses:
    """Return `model.losses`, compiled at its first call for each size of batch and stack.

    Each model is compiled once per process, however many stacks train it. `model` itself stays
    eager for evaluations, whose sizes would each compile again.
    """
    # before the first import of the compiler, which reads the variable once
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    # the jobs of a study share the cores
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    model = copy.copy(model)
    if torch.are_deterministic_algorithms_enabled():
        # compiled, the gradient of the lookup is a sort that synchronises with the host
        model.embed = torch.compiler.disable(model.embed)  # type: ignore[method-assign, no-untyped-call]
    if model.shape.n_layers <= WHOLE_UP_TO_LAYERS:
        return torch.compile(model.losses, dynamic=False)
    model.block = torch.compile(model.block, dynamic=False)  # type: ignore[method-assign]
    model.loss = torch.compile(model.loss, dynamic=False)  # type: ignore[method-assign]
    return model.losses


def cache_folder() -> Path:
    """Return $WINDTUNNEL_CACHE, else windtunnel/ in the user's cache folder; it may not exist yet.

    Compiled code is loaded from it, so it must be a folder of the user, never one of runs or data.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "windtunnel"
