"""The compute policy: what is set, what is chosen, what a restart keeps; timed attention."""

import json
from dataclasses import replace

import pytest
import torch

from tests.train.small_engines import CPU, policy, shape_of
from train.config.runtime import AttentionKernel, Compile, Dtype, MachineConfig
from train.engine import compute_policy as module
from train.engine.compile import CACHE
from train.engine.compute_policy import (
    COMPILE_FROM_FLOPS,
    DTYPES,
    EVAL_TOKENS_AT_ONCE,
    LONGEST_PLAIN,
    ComputePolicy,
    choose_policy,
    faster_kernel,
    resolve_dtype,
)
from train.engine.device import ComputeDevice

CUDA = ComputeDevice(torch.device("cuda", 0), "pretended")
CHOICES = policy(
    dtype=Dtype.bf16, attention=AttentionKernel.plain, micro_batch_seqs=4, eval_seqs=32
)


@pytest.fixture(autouse=True)
def _device(monkeypatch):
    """bfloat16 instructions, plain attention faster, a compiler."""
    monkeypatch.setattr(module, "has_native_bf16", lambda compute: True)
    monkeypatch.setattr(module, "faster_kernel", lambda *words: AttentionKernel.plain)
    monkeypatch.setattr(module, "can_compile", lambda compute: True)


def choose(machine=None, *, compute=CPU, seq_len=16, flops=0.0, n_replicas=1, **known):
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
    asked, is_native, monkeypatch
):
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
def test_attention_is_timed_for_the_dtype_it_will_have_or_as_asked(asked, monkeypatch):
    timed = []
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
def test_compiling_is_for_jobs_that_are_long_enough_or_as_asked(kind, asked, share, pays):
    machine = MachineConfig(compile=asked, micro_batch_seqs=8)
    compute = CPU if kind == "cpu" else CUDA
    chosen = choose(machine, compute=compute, flops=share * COMPILE_FROM_FLOPS[kind])
    expected = {Compile.always: True, Compile.never: False, Compile.auto: pays}[asked]
    assert chosen.compiled is expected


def test_nothing_is_compiled_without_a_compiler_unless_asked(monkeypatch):
    monkeypatch.setattr(module, "can_compile", lambda compute: False)
    assert not choose(flops=1e30).compiled
    assert choose(MachineConfig(compile=Compile.always), flops=1e30).compiled


def test_the_micro_batch_is_as_asked_or_what_is_known_to_fit_or_the_whole_batch():
    assert choose().micro_batch_seqs == 8
    assert choose(MachineConfig(micro_batch_seqs=2)).micro_batch_seqs == 2
    known = choose(MachineConfig(micro_batch_seqs=4), max_micro_batch_seqs=2)
    assert (known.micro_batch_seqs, known.eval_seqs) == (2, 2)


@pytest.mark.parametrize(
    ("seq_len", "eval_seqs"),
    [(16, EVAL_TOKENS_AT_ONCE // 16), (8_192, 1), (16_384, 1), (3_000, 2)],
)
@pytest.mark.parametrize("n_replicas", [1, 7])
def test_evaluations_take_as_many_windows_in_any_stack(seq_len, eval_seqs, n_replicas):
    assert choose(seq_len=seq_len, n_replicas=n_replicas).eval_seqs == eval_seqs


def test_a_policy_is_json_and_comes_back_as_it_was():
    recorded = json.loads(json.dumps(CHOICES.to_json()))
    assert recorded == {
        "dtype": "bf16",
        "attention": "plain",
        "compiled": False,
        "micro_batch_seqs": 4,
        "eval_seqs": 32,
    }
    assert ComputePolicy.from_json(recorded) == CHOICES
    compiled = replace(CHOICES, compiled=True, dtype=Dtype.fp32)
    assert ComputePolicy.from_json(compiled.to_json()) == compiled


@pytest.mark.parametrize(
    "recorded",
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
def test_a_damaged_record_is_none(recorded):
    assert ComputePolicy.from_json(recorded) is None


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
def test_a_restart_keeps_the_policy_unless_another_is_asked_for(asked, batch_seqs, is_allowed):
    assert CHOICES.allows(MachineConfig(**asked), batch_seqs) is is_allowed
    if "compile" in asked:
        compiled = replace(CHOICES, compiled=True)
        assert compiled.allows(MachineConfig(**asked), batch_seqs) is not is_allowed
        assert compiled.allows(MachineConfig(), batch_seqs)


PLAIN, SDPA = AttentionKernel.plain, AttentionKernel.sdpa
KEY = f"cpu, torch {torch.__version__}, torch.float32, 16x16"


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Set the seconds of both kernels; the list returned has an item for each timing."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))

    def says(plain, fused):
        calls = []
        monkeypatch.setattr(
            module, "_time_kernels", lambda *words: calls.append(1) or [plain, fused]
        )
        return calls

    return says


def faster(**model):
    return faster_kernel(shape_of(**model), CPU, torch.float32)


@pytest.mark.parametrize(
    ("plain", "kernel"),
    # a near tie always goes to the fused kernel
    [(0.5, PLAIN), (0.89, PLAIN), (0.91, SDPA), (3.0, SDPA)],
)
def test_plain_attention_is_taken_where_it_is_clearly_faster(timed, plain, kernel):
    timed(plain, 1.0)
    assert faster() is kernel


def test_a_choice_is_kept_for_every_later_process_beside_those_of_other_devices(timed, tmp_path):
    path = tmp_path / "cache" / "attention.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"another device": "sdpa"}))
    calls = timed(0.5, 1.0)
    assert faster() is PLAIN
    assert json.loads(path.read_text()) == {"another device": "sdpa", KEY: "plain"}
    # another timing would decide otherwise
    again = timed(2.0, 1.0)
    assert faster() is PLAIN
    assert (len(calls), len(again)) == (1, 0)


def test_another_window_head_or_dtype_is_another_choice(timed, tmp_path):
    calls = timed(0.5, 1.0)
    faster()
    faster(seq_len=8)
    faster(head_dim=8)
    faster_kernel(shape_of(), CPU, torch.bfloat16)
    faster(n_layers=5, vocab_size=99)  # no say
    assert len(calls) == 4
    assert len(json.loads((tmp_path / "cache" / "attention.json").read_text())) == 4


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\x00\xff", *(json.dumps({KEY: odd}) for odd in ("auto", "fast", None, {}))],
)
def test_a_damaged_file_is_measured_again_and_mended(timed, tmp_path, text):
    path = tmp_path / "cache" / "attention.json"
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    calls = timed(0.5, 1.0)
    assert faster() is PLAIN
    assert faster() is PLAIN
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_is_done_without(timed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    calls = timed(0.5, 1.0)
    assert faster() is PLAIN
    assert faster() is PLAIN
    assert len(calls) == 2


def test_long_windows_are_fused_without_a_timing(timed):
    calls = timed(0.5, 1.0)
    assert faster(seq_len=LONGEST_PLAIN + 1) is SDPA
    assert calls == []
    assert faster(seq_len=LONGEST_PLAIN) is PLAIN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_timing_gives_seconds_and_leaves_the_random_state_alone(dtype):
    before = torch.get_rng_state()
    plain, fused = module._time_kernels(shape_of(), CPU, dtype)
    assert torch.equal(torch.get_rng_state(), before)
    assert 0 < plain < 10
    assert 0 < fused < 10


def test_of_two_processes_that_time_at_once_the_first_choice_holds(timed, tmp_path, monkeypatch):
    path = tmp_path / "cache" / "attention.json"

    def while_another_is_done(*words):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({KEY: "sdpa", "another device": "plain"}))
        return [0.5, 1.0]

    monkeypatch.setenv(CACHE, str(path.parent))
    monkeypatch.setattr(module, "_time_kernels", while_another_is_done)
    assert faster() is SDPA
    assert json.loads(path.read_text()) == {KEY: "sdpa", "another device": "plain"}
