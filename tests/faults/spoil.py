"""Losses that go wrong at one step: what the engine is given in place of the model's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from train.engine.engine import Engine

NAN, INFINITY = float("nan"), float("inf")

STEP = Engine._step
"""The real one."""

State = tuple[dict[str, Tensor], dict[str, Tensor]]


def replace_step(patch: pytest.MonkeyPatch, step: Callable[[Engine], None]) -> None:
    """Let every engine take `step`, which is given the engine, for one update."""
    patch.setattr(Engine, "_step", lambda engine: step(engine))


class SpoiltStep:
    """A step that spoils the losses of one update, and remembers what it had in hand then."""

    def __init__(self, step: int, spoil: Callable[[Tensor], Tensor]) -> None:
        self._at, self._spoil, self._calls = step, spoil, 0
        self.engine: Engine
        self.before: State
        """Weights, and moments with their step count, before that step."""

    def __call__(self, engine: Engine) -> None:
        """One update."""
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

    def after(self) -> State:
        """The same now."""
        model, optimizer = self.engine.replica_state(0)
        return {name: value.clone() for name, value in model.items()}, optimizer


class _GradientTimes(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def gradient_times(factor: float) -> Callable[[Tensor], Tensor]:
    """Spoil the gradient and leave the loss as it is."""
    return lambda loss: _GradientTimes.apply(loss, factor)


def loss_times(factor: float) -> Callable[[Tensor], Tensor]:
    """Spoil the loss, and with it the gradient."""
    return lambda loss: loss * factor
