"""Losses that go wrong at one step: what the engine is given in place of the model's."""

import itertools

import pytest
import torch

from faults.runner import run_folder, run_here
from train.engine.engine import Engine

NAN, INFINITY = float("nan"), float("inf")

STEP = Engine._step
"""The real one."""


def replace_step(patch, step):
    """Let every engine take `step`, which is given the engine, for one update."""
    patch.setattr(Engine, "_step", lambda engine: step(engine))


class Crash(Exception):
    """The process goes away."""


def crash(config, *, after):
    """Train in this process until it goes away after that many updates; return the folder."""
    updates = itertools.count()

    def step(engine):
        if next(updates) == after:
            raise Crash
        STEP(engine)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):  # noqa: PT012
        replace_step(patch, step)
        run_here(config)
    return run_folder(config)


class SpoiltStep:
    """A step that spoils the losses of one update, and remembers what it had in hand then."""

    def __init__(self, step, spoil):
        self._at, self._spoil, self._calls = step, spoil, 0
        """Weights, and moments with their step count, before that step."""

    def __call__(self, engine):
        self._calls += 1
        self.engine = engine
        if self._calls != self._at:
            STEP(engine)
            return
        self.before = self.after()
        real = engine._losses
        engine._losses = lambda *values: self._spoil(real(*values))
        STEP(engine)
        engine._losses = real

    def after(self):
        model, optimizer = self.engine.replica_state(0)
        return {name: value.clone() for name, value in model.items()}, optimizer


class _GradientTimes(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx, loss, factor):
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


def gradient_times(factor):
    return lambda loss: _GradientTimes.apply(loss, factor)


def loss_times(factor):
    return lambda loss: loss * factor
