"""Attention: both kernels alike, and the choice between them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train.small_engines import CPU, shape_of
from train.config.runtime import AttentionKernel
from train.engine.attention_choice import LONGEST_PLAIN, faster_kernel
from train.engine.compile import CACHE
from train.model import attention
from train.model.attention import KERNELS

PLAIN, SDPA = AttentionKernel.plain, AttentionKernel.sdpa
KEY = f"cpu, torch {torch.__version__}, torch.float32, 16x16"


def operands(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    size = (3, 2, 5, 4)  # windows, heads, tokens, width
    return tuple(
        torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for _ in range(3)
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_attention_is_a_softmax_over_earlier_positions(kernel: AttentionKernel) -> None:
    q, k, v = (x.detach() for x in operands())
    y = KERNELS[kernel](q, k, v)
    for window in range(3):
        for head in range(2):
            for t in range(5):
                products = [float(q[window, head, t] @ k[window, head, s]) for s in range(t + 1)]
                weights = [math.exp(product / math.sqrt(4)) for product in products]
                mean = sum(w * v[window, head, s] for s, w in enumerate(weights)) / sum(weights)
                torch.testing.assert_close(y[window, head, t], mean, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-12),
        (torch.float32, 2e-6),  # sums of 5 terms of order 1
        (torch.bfloat16, 0.06),  # 8 bits: plain rounds scores and shares, the fused kernel neither
    ],
)
def test_both_kernels_agree_in_values_and_gradients(dtype: torch.dtype, tolerance: float) -> None:
    inputs = operands(dtype)
    results = []
    for kernel in KERNELS.values():
        y = kernel(*inputs)
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for plain, fused in zip(*results, strict=True):
        assert plain.dtype is fused.dtype is dtype
        torch.testing.assert_close(plain, fused, atol=tolerance, rtol=tolerance)


def test_the_gradient_of_plain_attention_is_that_of_its_formula() -> None:
    assert torch.autograd.gradcheck(KERNELS[PLAIN], operands())


Timed = Callable[[float, float], list[int]]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Timed:
    """Say how long the kernels take; the list grows with every timing that is asked for."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))

    def says(plain: float, fused: float) -> list[int]:
        calls: list[int] = []
        monkeypatch.setattr(attention, "_seconds", lambda *words: calls.append(1) or [plain, fused])
        return calls

    return says


def choose(**model: object) -> AttentionKernel:
    return faster_kernel(shape_of(**model), CPU, torch.float32)


@pytest.mark.parametrize(
    ("plain", "fused", "kernel"),
    [
        (0.5, 1.0, PLAIN),
        (0.89, 1.0, PLAIN),
        (0.91, 1.0, SDPA),  # a near tie goes to the fused kernel, on every day alike
        (1.0, 1.0, SDPA),
        (3.0, 1.0, SDPA),
    ],
)
def test_plain_attention_is_taken_where_it_is_clearly_faster(
    timed: Timed, plain: float, fused: float, kernel: AttentionKernel
) -> None:
    timed(plain, fused)
    assert choose() is kernel


def test_a_verdict_is_kept_for_every_later_process(timed: Timed, tmp_path: Path) -> None:
    calls = timed(0.5, 1.0)
    assert choose() is PLAIN
    assert json.loads((tmp_path / "cache" / "attention.json").read_text()) == {KEY: "plain"}
    again = timed(2.0, 1.0)  # it would decide otherwise now
    assert choose() is PLAIN
    assert (len(calls), len(again)) == (1, 0)


def test_another_window_head_or_dtype_is_another_verdict(timed: Timed, tmp_path: Path) -> None:
    calls = timed(0.5, 1.0)
    choose()
    choose(seq_len=8)
    choose(head_dim=8)
    faster_kernel(shape_of(), CPU, torch.bfloat16)
    choose(n_layers=5, vocab_size=99)  # no say
    assert len(calls) == 4
    assert len(json.loads((tmp_path / "cache" / "attention.json").read_text())) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"plain"',
        "\x00\xff",
        json.dumps({KEY: "auto"}),
        json.dumps({KEY: "fast"}),
        json.dumps({KEY: None}),
        json.dumps({KEY: {}}),
    ],
)
def test_a_damaged_file_is_measured_again_and_mended(
    timed: Timed, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "cache" / "attention.json"
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    calls = timed(0.5, 1.0)
    assert choose() is PLAIN
    assert choose() is PLAIN
    assert len(calls) == 1


def test_other_verdicts_survive_a_new_one(timed: Timed, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "attention.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"another device": "sdpa"}))
    timed(0.5, 1.0)
    choose()
    assert json.loads(path.read_text()) == {"another device": "sdpa", KEY: "plain"}


def test_a_cache_that_cannot_be_written_is_done_without(
    timed: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    calls = timed(0.5, 1.0)
    assert choose() is PLAIN
    assert choose() is PLAIN
    assert len(calls) == 2


def test_long_windows_are_fused_without_a_timing(timed: Timed) -> None:
    calls = timed(0.5, 1.0)
    assert choose(seq_len=LONGEST_PLAIN + 1) is SDPA
    assert calls == []
    assert choose(seq_len=LONGEST_PLAIN) is PLAIN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_timing_gives_seconds_and_leaves_the_random_state_alone(dtype: torch.dtype) -> None:
    before = torch.get_rng_state()
    plain, fused = attention._seconds(shape_of(), CPU, dtype)
    assert torch.equal(torch.get_rng_state(), before)
    assert 0 < plain < 10
    assert 0 < fused < 10


def test_of_two_processes_that_time_at_once_the_first_verdict_holds(
    timed: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / "attention.json"

    def while_another_is_done(*words: object) -> list[float]:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({KEY: "sdpa", "another device": "plain"}))
        return [0.5, 1.0]

    monkeypatch.setenv(CACHE, str(path.parent))
    monkeypatch.setattr(attention, "_seconds", while_another_is_done)
    assert choose() is SDPA
    assert json.loads(path.read_text()) == {KEY: "sdpa", "another device": "plain"}
