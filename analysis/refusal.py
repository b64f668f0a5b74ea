"""A result that is no number: why something could not be concluded, and which runs would do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from analysis.errors import RefusedError

T = TypeVar("T")


@dataclass(frozen=True)
class Refusal:
    """Why there is no answer."""

    why: str


def attempt(fit: Callable[[], T]) -> T | Refusal:
    """Return what `fit` returns, or its refusal."""
    try:
        return fit()
    except RefusedError as error:
        return Refusal(str(error))


def fitted(result: T | Refusal) -> T | None:
    """Return the result, or None where it was refused."""
    return None if isinstance(result, Refusal) else result
