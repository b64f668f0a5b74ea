"""torch.compile for the model: whole where it is shallow, one block for all its layers where not.

Compiled code is kept in the user's cache folder, so that a second run of a shape loads it. Shallow
models gain more from one compiled function, since entering each costs a quarter of a millisecond of
Python; a deep one would take minutes to compile whole, and its blocks are all the same.

Where measurements and compiled code of this machine are kept from one process to the next.
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

SIZES_COMPILED = 64
"""Shapes, batches and stacks that one process compiles; beyond its own 8, torch would silently go
on without compiling."""

Losses = Callable[[Weights, Tensor, Tensor], Tensor]


def can_compile(compute: ComputeDevice) -> bool:
    """Whether what torch.compile needs is here.

    For the CPU a C++ compiler; for CUDA Triton, and what that builds its launchers with: a C
    compiler and Python's headers.
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
    """Return the model's losses, compiled at their first call for each size of batch and stack.

    A model is compiled once a process, however many stacks use it. The model itself stays as it is:
    evaluations use it, and would compile for their sizes again.
    """
    # before anything of the compiler is loaded, which looks for its folder once
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a study's jobs share the cores
    torch._dynamo.config.recompile_limit = SIZES_COMPILED
    model = copy.copy(model)
    if torch.are_deterministic_algorithms_enabled():  # compiled, it asks the host for its range
        model.embed = torch.compiler.disable(model.embed)  # type: ignore[method-assign, no-untyped-call]
    if model.shape.n_layers <= WHOLE_UP_TO_LAYERS:
        return torch.compile(model.losses, dynamic=False)
    model.block = torch.compile(model.block, dynamic=False)  # type: ignore[method-assign]
    model.loss = torch.compile(model.loss, dynamic=False)  # type: ignore[method-assign]
    return model.losses


CACHE = "WINDTUNNEL_CACHE"
"""Environment variable that names another folder."""


def cache_folder() -> Path:
    """$WINDTUNNEL_CACHE, else windtunnel/ in the user's cache folder; it may not exist yet.

    Compiled code is loaded from it, so it is the user's own, never a folder of runs or data.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "windtunnel"
