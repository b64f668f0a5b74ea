"""Small engines on tokens in memory, for tests of what a step does."""

import numpy as np
import torch
from faults.same_run import assert_equal_state

from train.config.experiment import Cooldown, ModelConfig, OptimizerConfig, ScheduleShape
from train.config.runtime import AttentionKernel, Dtype
from train.data.sampler import segment_starts
from train.engine.batches import Windows
from train.engine.compute_policy import ComputePolicy
from train.engine.device import ComputeDevice
from train.engine.engine import Engine, Replica
from train.plan.schedule import Schedule
from train.plan.shape import model_shape

CPU = ComputeDevice(torch.device("cpu"), "cpu")
VOCAB, SEQ_LEN, BATCH_SEQS = 61, 16, 8


def shape_of(**model):
    """Width 32, two layers, two heads, unless `model` says otherwise."""
    sizes = {"vocab_size": VOCAB, "seq_len": SEQ_LEN}
    sizes |= {name: model.pop(name) for name in sizes if name in model}
    return model_shape(ModelConfig(**{"d_model": 32, "head_dim": 16, **model}), **sizes)


class TokenWindows(Windows):
    """Windows of skewed random tokens, in the order of each replica's seed."""

    def __init__(self, shape, seeds, *, compute=CPU, batch_seqs=BATCH_SEQS, is_resident=False):
        super().__init__(compute, seeds=seeds, batch_seqs=batch_seqs, seq_len=shape.seq_len)
        self.is_resident = is_resident
        ranks = np.random.default_rng(0).zipf(1.5, 20_000) - 1
        self.tokens = torch.from_numpy(ranks % shape.vocab_size).to(compute.device)

    def starts(self, step, n_steps):
        sizes = {"batch_seqs": self.batch_seqs, "seq_len": self.seq_len}
        each = [
            segment_starts(seed=seed, step=step, n_steps=n_steps, n_tokens=20_000, **sizes)
            for seed in self.seeds
        ]
        return np.stack(each, axis=1)

    def gather(self, starts_RB, out_RBT):
        out_RBT.copy_(self.resident_windows(torch.from_numpy(starts_RB)))

    def resident_windows(self, starts_RB):
        return self.tokens[starts_RB[..., None] + self.offsets_T]


def schedule(total_steps=1_000):
    """Five steps of warm-up, then a cosine."""
    return Schedule(
        shape=ScheduleShape.cosine,
        total_steps=total_steps,
        warmup_steps=5,
        cooldown_steps=0,
        cooldown=Cooldown.linear,
        final_ratio=0.1,
        decay_end_step=total_steps,
    )


def replica(seed=0, lr=0.01, **optimizer):
    settings = OptimizerConfig(**optimizer)
    return Replica(seed=seed, lr=lr, schedule=schedule(), optimizer=settings)


def policy(**changes):
    """float32, fused attention, the whole batch at once, unless `changes` say otherwise."""
    choices = {
        "dtype": Dtype.fp32,
        "attention": AttentionKernel.sdpa,
        "compiled": False,
        "micro_batch_seqs": BATCH_SEQS,
        "eval_seqs": BATCH_SEQS,
    }
    return ComputePolicy(**{**choices, **changes})


ONE = (replica(),)


def make_engine(
    replicas=ONE,
    *,
    shape=None,
    compute=CPU,
    batch_seqs=BATCH_SEQS,
    is_resident=False,
    may_graph=True,
    **changes,
):
    """An engine of these replicas at step 0; `changes` are the policy's."""
    shape = shape or shape_of()
    windows = TokenWindows(
        shape,
        [one.seed for one in replicas],
        compute=compute,
        batch_seqs=batch_seqs,
        is_resident=is_resident,
    )
    changes = {"micro_batch_seqs": batch_seqs, **changes}
    return Engine(shape, replicas, compute, windows, policy(**changes), may_graph=may_graph)


def state_of(engine, place):
    """A replica's weights, moments and step count, copies by name."""
    model, optimizer = engine.replica_state(place)
    return {**model, **optimizer}


def assert_same_bits(one, other):
    assert_equal_state("state", one, other)
