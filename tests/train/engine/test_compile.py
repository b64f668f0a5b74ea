"""Compiled steps: eager ones within rounding; when and how to compile; the cache folder."""

import os
import subprocess
import sys
from pathlib import Path

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
from train.engine.compile import CACHE, WHOLE_UP_TO_LAYERS, cache_folder, can_compile, compile_model
from train.engine.device import ComputeDevice
from train.model.transformer import Transformer

PAIR = (replica(seed=0), replica(seed=1, lr=0.02))
TINY = {"d_model": 8, "n_heads": 2, "vocab_size": 11, "seq_len": 8}

needs_compiler = pytest.mark.skipif(not can_compile(CPU), reason="needs a C++ compiler")


def of_torch(test):
    """Ignore warnings of torch's compiler: of its imports, and when it inspects a block's input."""
    for warning in ("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor"):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    """Undo what compiling sets for the whole process; code goes to a folder of the test."""
    monkeypatch.setenv(CACHE, str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def compare(replicas, tolerance, **how):
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
def test_a_compiled_step_is_the_eager_one_within_rounding(tmp_path):
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
    dtype, tolerance, n_layers, attention
):
    shape = shape_of(**TINY, n_layers=n_layers)
    compare(PAIR, tolerance, shape=shape, attention=attention, dtype=dtype)


@pytest.fixture
def given(monkeypatch):
    """Names of the functions given to torch.compile, which returns them as they are."""
    names = []

    def fake(function, *, dynamic):
        assert dynamic is False
        names.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", fake)
    return names


def test_warming_up_compiles_for_the_steps_sizes_and_changes_nothing(given):
    assert given == []
    cold, warm = (
        make_engine(PAIR, compiled=True, batch_seqs=4, micro_batch_seqs=2) for _ in range(2)
    )
    sizes = []
    losses = warm._losses

    def noted(weights, tokens, targets):
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


def test_where_nothing_is_compiled_or_recorded_warming_up_computes_nothing():
    engine = make_engine(PAIR)
    engine._losses = None
    engine.warm_up()


def model_of(n_layers):
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
def test_a_shallow_model_is_compiled_whole_and_a_deep_one_by_its_block(n_layers, parts, given):
    model = model_of(n_layers)
    compile_model(model)
    assert given == parts
    assert not {"block", "loss", "losses"} & vars(model).keys()  # evaluations use it as it was


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize("own", [None, ("/mine", "4")])
def test_code_goes_to_the_cache_folder_by_one_thread_unless_the_user_says_otherwise(
    own, tmp_path, monkeypatch
):
    names = ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS")
    for name, value in zip(names, own or (), strict=False):
        monkeypatch.setenv(name, value)
    compile_model(model_of(2))
    assert tuple(os.environ[name] for name in names) == (own or (str(tmp_path / "compiled"), "1"))


def test_a_cpu_compiles_where_there_is_a_compiler(monkeypatch, tmp_path):
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
def test_a_gpu_compiles_where_there_is_triton_and_what_it_builds_with(gone, monkeypatch, tmp_path):
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


@pytest.mark.parametrize(
    ("named", "cache_home", "folder"),
    [
        ("/scratch/mine", "/elsewhere", "/scratch/mine"),
        ("", "/caches", "/caches/windtunnel"),
        ("", "", "/home/someone/.cache/windtunnel"),
    ],
)
def test_the_cache_folder_is_the_one_named_or_the_user_s(named, cache_home, folder, monkeypatch):
    for name, value in ((CACHE, named), ("XDG_CACHE_HOME", cache_home), ("HOME", "/home/someone")):
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)
    for name in (CACHE, "XDG_CACHE_HOME"):
        if not os.environ[name]:
            monkeypatch.delenv(name)
    assert cache_folder() == Path(folder)
    assert not Path(folder).exists()
