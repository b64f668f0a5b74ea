"""How a device computes: what was asked, what was chosen, and what a restart keeps."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.train.small_engines import CPU, policy, shape_of
from train.config.runtime import AttentionKernel, Compile, Dtype, MachineConfig
from train.engine import compute_policy as module
from train.engine.compute_policy import (
    COMPILE_FROM_FLOPS,
    DTYPES,
    EVAL_TOKENS_AT_ONCE,
    ComputePolicy,
    choose_policy,
    resolve_dtype,
)
from train.engine.device import ComputeDevice

CUDA = ComputeDevice(torch.device("cuda", 0), "pretended")
CHOICES = policy(
    dtype=Dtype.bf16, attention=AttentionKernel.plain, micro_batch_seqs=4, eval_seqs=32
)


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 instructions, plain attention faster, a compiler."""
    monkeypatch.setattr(module, "has_native_bf16", lambda compute: True)
    monkeypatch.setattr(module, "faster_kernel", lambda *words: AttentionKernel.plain)
    monkeypatch.setattr(module, "can_compile", lambda compute: True)


def choose(
    machine: MachineConfig | None = None,
    *,
    compute: ComputeDevice = CPU,
    seq_len: int = 16,
    flops: float = 0.0,
    n_replicas: int = 1,
    **known: int,
) -> ComputePolicy:
    return choose_policy(
        shape_of(seq_len=seq_len),
        machine or MachineConfig(),
        compute,
        n_replicas=n_replicas,
        batch_seqs=8,
        flops=flops,
        **known,
    )


@pytest.mark.parametrize("is_native", [False, True])
@pytest.mark.parametrize("asked", Dtype)
def test_products_are_in_bfloat16_where_the_device_has_it_or_as_asked(
    asked: Dtype, is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_native_bf16", lambda compute: is_native)
    expected = {
        Dtype.auto: Dtype.bf16 if is_native else Dtype.fp32,
        Dtype.bf16: Dtype.bf16,
        Dtype.fp32: Dtype.fp32,
    }[asked]
    machine = MachineConfig(dtype=asked)
    assert resolve_dtype(machine, CPU) is choose(machine).dtype is expected
    assert choose(machine).torch_dtype is DTYPES[expected]


@pytest.mark.parametrize("asked", AttentionKernel)
def test_attention_is_timed_for_the_dtype_it_will_have_or_as_asked(
    asked: AttentionKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[object] = []
    monkeypatch.setattr(
        module, "faster_kernel", lambda *words: timed.append(words[2]) or AttentionKernel.plain
    )
    chosen = choose(MachineConfig(attention=asked)).attention
    is_auto = asked is AttentionKernel.auto
    assert chosen is (AttentionKernel.plain if is_auto else asked)
    assert timed == ([torch.bfloat16] if is_auto else [])


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("asked", Compile)
@pytest.mark.parametrize(("share", "pays"), [(0.99, False), (1.0, True), (100.0, True)])
def test_compiling_is_for_jobs_that_are_long_enough_or_as_asked(
    kind: str, asked: Compile, share: float, pays: bool
) -> None:
    machine = MachineConfig(compile=asked, micro_batch_seqs=8)
    compute = CPU if kind == "cpu" else CUDA
    chosen = choose(machine, compute=compute, flops=share * COMPILE_FROM_FLOPS[kind])
    expected = {Compile.always: True, Compile.never: False, Compile.auto: pays}[asked]
    assert chosen.compiled is expected


def test_nothing_is_compiled_without_a_compiler_unless_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "can_compile", lambda compute: False)
    assert not choose(flops=1e30).compiled
    assert choose(MachineConfig(compile=Compile.always), flops=1e30).compiled


def test_the_micro_batch_is_as_asked_or_what_is_known_to_fit_or_the_whole_batch() -> None:
    assert choose().micro_batch_seqs == 8
    assert choose(MachineConfig(micro_batch_seqs=2)).micro_batch_seqs == 2
    known = choose(MachineConfig(micro_batch_seqs=4), max_micro_batch_seqs=2)
    assert (known.micro_batch_seqs, known.eval_seqs) == (2, 2)


@pytest.mark.parametrize(
    ("seq_len", "eval_seqs"),
    [(16, EVAL_TOKENS_AT_ONCE // 16), (8_192, 1), (16_384, 1), (3_000, 2)],
)
@pytest.mark.parametrize("n_replicas", [1, 7])
def test_evaluations_take_as_many_windows_in_any_stack(
    seq_len: int, eval_seqs: int, n_replicas: int
) -> None:
    assert choose(seq_len=seq_len, n_replicas=n_replicas).eval_seqs == eval_seqs


def test_facts_are_json_and_come_back_as_they_were() -> None:
    facts = json.loads(json.dumps(CHOICES.to_json()))
    assert facts == {
        "dtype": "bf16",
        "attention": "plain",
        "compiled": False,
        "micro_batch_seqs": 4,
        "eval_seqs": 32,
    }
    assert ComputePolicy.from_json(facts) == CHOICES
    compiled = replace(CHOICES, compiled=True, dtype=Dtype.fp32)
    assert ComputePolicy.from_json(compiled.to_json()) == compiled


@pytest.mark.parametrize(
    "facts",
    [
        None,
        "bf16",
        [],
        {},
        *(
            {**CHOICES.to_json(), name: value}
            for name, value in [
                ("dtype", "fp8"),
                ("dtype", "auto"),
                ("dtype", None),
                ("dtype", []),
                ("attention", "auto"),
                ("attention", "flash"),
                ("micro_batch_seqs", 0),
                ("micro_batch_seqs", True),
                ("micro_batch_seqs", 4.0),
                ("eval_seqs", -1),
                ("eval_seqs", "32"),
            ]
        ),
        {name: value for name, value in CHOICES.to_json().items() if name != "compiled"},
        {name: value for name, value in CHOICES.to_json().items() if name != "eval_seqs"},
    ],
)
def test_damaged_facts_are_none(facts: Any) -> None:
    assert ComputePolicy.from_json(facts) is None


@pytest.mark.parametrize(
    ("asked", "batch_seqs", "is_allowed"),
    [
        ({}, 8, True),
        ({}, 4, True),
        ({}, 6, False),  # 4 does not divide it
        ({"dtype": Dtype.bf16, "attention": AttentionKernel.plain, "micro_batch_seqs": 4}, 8, True),
        ({"dtype": Dtype.fp32}, 8, False),
        ({"attention": AttentionKernel.sdpa}, 8, False),
        ({"micro_batch_seqs": 2}, 8, False),
        ({"compile": Compile.never}, 8, True),
        ({"compile": Compile.always}, 8, False),
    ],
)
def test_a_restart_keeps_the_policy_unless_another_is_asked_for(
    asked: dict[str, Any], batch_seqs: int, is_allowed: bool
) -> None:
    assert CHOICES.allows(MachineConfig(**asked), batch_seqs) is is_allowed


def test_a_compiled_run_goes_on_compiled_unless_that_is_forbidden() -> None:
    compiled = replace(CHOICES, compiled=True)
    assert compiled.allows(MachineConfig(), 8)
    assert compiled.allows(MachineConfig(compile=Compile.always), 8)
    assert not compiled.allows(MachineConfig(compile=Compile.never), 8)
