"""Models that go wrong at one step: what the loop is given in place of the real one."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from train.step import train_step

NAN, INFINITY = float("nan"), float("inf")


class SpoiltModel:
    """A model whose loss is changed on its way out."""

    def __init__(self, model: nn.Module, spoil: Callable[[Tensor], Tensor]) -> None:
        self._model, self._spoil = model, spoil

    def __call__(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The real loss, spoilt."""
        loss: Tensor = self._spoil(self._model(tokens_BT, targets_BT))
        return loss

    def parameters(self) -> Iterator[nn.Parameter]:
        """The real ones."""
        return self._model.parameters()


class SpoiltStep:
    """A train_step that spoils the loss of one step, and remembers what it had in hand then."""

    def __init__(self, step: int, spoil: Callable[[Tensor], Tensor]) -> None:
        self._at, self._spoil, self._calls = step, spoil, 0
        self.model: nn.Module
        self.optimizer: torch.optim.Optimizer
        self.before: tuple[dict[str, Any], dict[str, Any]]
        """Weights, and moments with their step counts, before that step."""

    def __call__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """One update."""
        self._calls += 1
        self.model, self.optimizer = model, optimizer
        if self._calls != self._at:
            return train_step(model, optimizer, *rest, **options)  # type: ignore[arg-type]
        self.before = self.after()
        spoilt: Any = SpoiltModel(model, self._spoil)
        return train_step(spoilt, optimizer, *rest, **options)

    def after(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same now."""
        return copied(self.model.state_dict()), copied(self.optimizer.state_dict()["state"])


def copied(value: Any) -> Any:
    """Nested state dicts with tensors of their own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


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
