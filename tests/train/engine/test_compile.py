"""Compiled steps: the eager ones within rounding, whole or block by block, or not at all."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small_engines import (
    CPU,
    assert_same_bits,
    make_engine,
    replica,
    shape_of,
    state_of,
)
from train.config.runtime import AttentionKernel, Dtype
from train.engine import compile as compiled
from train.engine.compile import CACHE, WHOLE_UP_TO_LAYERS, can_compile, compile_model
from train.engine.device import ComputeDevice
from train.engine.engine import Replica
from train.model.transformer import Transformer

PAIR = (replica(seed=0), replica(seed=1, lr=0.02))
TINY = {"d_model": 8, "n_heads": 2, "vocab_size": 11, "seq_len": 8}

needs_compiler = pytest.mark.skipif(not can_compile(CPU), reason="needs a C++ compiler")


def of_torch(test: Any) -> Any:
    """Pass over the warnings of its compiler: its imports', and of a look at a block's input."""
    for warning in ("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor"):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What compiling sets for the whole process is undone; code goes to a folder of the test's."""
    monkeypatch.setenv(CACHE, str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def compare(replicas: Sequence[Replica], tolerance: float, **how: Any) -> None:
    """Three steps, compiled and eager: losses and gradients must agree within `tolerance`."""
    eager, fused = (
        make_engine(replicas, compiled=is_compiled, batch_seqs=2, **how)
        for is_compiled in (False, True)
    )
    expected, segment = eager.advance(3), fused.advance(3)
    for ours, theirs in zip(segment.losses_SR, expected.losses_SR, strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)
    for ours, theirs in zip(segment.grad_norms_SR, expected.grad_norms_SR, strict=True):
        assert ours == pytest.approx(theirs, rel=10 * tolerance)
    for place in range(len(replicas)):
        ours, theirs = (state_of(engine, place)["exp_avg"] for engine in (fused, eager))
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0.0)


@needs_compiler
@of_torch
def test_a_compiled_step_is_the_eager_one_within_rounding(tmp_path: Path) -> None:
    """Of one layer and one run: some 20 seconds of a core, nearly all of them the compilers'."""
    code = "import train.engine.compile, sys; sys.exit('torch._inductor' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # or its folder would be set by now
    compare(PAIR[:1], 1e-6, shape=shape_of(**TINY, n_layers=1))
    assert list((tmp_path / "compiled").rglob("*.so"))


@needs_compiler
@of_torch
@pytest.mark.slow
@pytest.mark.parametrize("attention", [AttentionKernel.plain, AttentionKernel.sdpa])
@pytest.mark.parametrize("n_layers", [2, WHOLE_UP_TO_LAYERS + 1])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (Dtype.fp32, 1e-6),
        (Dtype.bf16, 0.01),  # eager code rounds to 8 bits where compiled code keeps float32
    ],
)
def test_a_compiled_stack_is_the_eager_one_whole_or_block_by_block(
    dtype: Dtype, tolerance: float, n_layers: int, attention: AttentionKernel
) -> None:
    shape = shape_of(**TINY, n_layers=n_layers)
    compare(PAIR, tolerance, shape=shape, attention=attention, dtype=dtype)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.compile notes what it was given, and returns it."""
    names: list[str] = []

    def fake(function: Any, *, dynamic: bool) -> Any:
        assert dynamic is False
        names.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", fake)
    return names


def test_warming_up_compiles_for_the_steps_sizes_and_changes_nothing(given: list[str]) -> None:
    assert given == []
    cold, warm = (
        make_engine(PAIR, compiled=True, batch_seqs=4, micro_batch_seqs=2) for _ in range(2)
    )
    sizes: list[tuple[object, ...]] = []
    losses = warm._losses

    def noted(weights: Any, tokens: Any, targets: Any) -> Any:
        sizes.append((tokens.shape, tokens.stride(), targets.shape, targets.stride()))
        return losses(weights, tokens, targets)

    warm._losses = noted
    warm.warm_up()
    assert len(sizes) == 1
    assert warm.step == 0
    assert warm.advance(2) == cold.advance(2)
    assert len(set(sizes)) == 1
    for place in (0, 1):
        assert_same_bits(state_of(warm, place), state_of(cold, place))


def test_where_nothing_is_compiled_or_recorded_warming_up_computes_nothing() -> None:
    engine = make_engine(PAIR)
    engine._losses = None  # type: ignore[assignment]
    engine.warm_up()


def model_of(n_layers: int) -> Transformer:
    return Transformer(
        shape_of(**TINY, n_layers=n_layers),
        device=CPU.device,
        dtype=torch.float32,
        attention=lambda q, k, v: v,
    )


@pytest.mark.parametrize(
    ("n_layers", "parts"),
    [(1, ["losses"]), (4, ["losses"]), (5, ["block", "loss"]), (60, ["block", "loss"])],
)
def test_a_shallow_model_is_compiled_whole_and_a_deep_one_by_its_block(
    n_layers: int, parts: list[str], given: list[str]
) -> None:
    model = model_of(n_layers)
    compile_model(model)
    assert given == parts
    assert not {"block", "loss", "losses"} & vars(model).keys()  # evaluations use it as it was


@pytest.mark.usefixtures("given")
def test_compiled_code_is_kept_in_the_cache_folder_and_compiled_by_one_thread(
    tmp_path: Path,
) -> None:
    compile_model(model_of(2))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "1"


@pytest.mark.usefixtures("given")
def test_a_user_s_own_folder_and_threads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "4")
    compile_model(model_of(2))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "4"


def test_a_cpu_compiles_where_there_is_a_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not can_compile(CPU)
    for name in ("g++", "other"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    assert can_compile(CPU)
    monkeypatch.setenv("CXX", "other")
    assert can_compile(CPU)
    monkeypatch.setenv("CXX", "absent")
    assert not can_compile(CPU)


@pytest.mark.parametrize(
    "gone", [None, "triton", "compiler", "headers"], ids=lambda gone: f"without_{gone}"
)
def test_a_gpu_compiles_where_there_is_triton_and_what_it_builds_with(
    gone: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiled, "has_triton", lambda: gone != "triton")
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    for name in ("clang", "Python.h"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    if gone in ("compiler", "headers"):
        (tmp_path / ("clang" if gone == "compiler" else "Python.h")).unlink()
    cuda = ComputeDevice(torch.device("cuda", 0), "pretended")
    assert can_compile(cuda) is (gone is None)
    monkeypatch.setenv("CC", "absent")
    assert not can_compile(cuda)
