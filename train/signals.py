"""Signals ask for a stop; the loop grants it at the next step boundary, after saving.

Periodic checkpoints are the guarantee: a signal reaches Python only between two of its
instructions, so one that comes during a long kernel waits, and SIGKILL never comes at all.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from train.errors import InterruptedByUserError, PreemptedError, WindTunnelError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""A scheduler's two, Ctrl-C, and a terminal that is closed (unless nohup has them ignored)."""


class StopRequest:
    """The signal that asked for a stop, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.granted = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def error(self, where: str) -> WindTunnelError:
        """The error to end with, once everything is saved."""
        assert self.signal is not None
        self.granted = True
        return _stopped(self.signal, where)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the signals of STOPPING into a flag; the handlers before it return at the end.

    When a stop was granted, the handler that was there before is called afterwards: a scheduler's
    own (submitit's, say) then requeues the job, whose state is saved by now.
    """
    request = StopRequest()

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal = signal.Signals(number)

    before = _install(remember)
    try:
        yield request
    finally:
        _restore(before)
        if request.granted and request.signal is not None:
            _chain(before[request.signal], request.signal)


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """Before and after the loop, where nothing has to be saved, a signal ends the command itself.

    Raises:
        PreemptedError, InterruptedByUserError: A signal came.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise _stopped(signal.Signals(number), "outside the training loop")

    before = _install(stop)
    stop.instead_of = before  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _restore(before)


def _stopped(number: signal.Signals, where: str) -> WindTunnelError:
    message = f"stopped by {number.name} {where}; the same command continues"
    if number is signal.SIGINT:
        return InterruptedByUserError(message)
    return PreemptedError(message)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Put `handler` in every place but those where the signal is ignored; return what was there."""
    return {
        number: signal.signal(number, handler)
        for number in STOPPING
        if signal.getsignal(number) is not signal.SIG_IGN
    }


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _chain(handler: Any, number: signal.Signals) -> None:  # noqa: ANN401
    """Call a scheduler's handler, also one that stops_at_once stands in for.

    Python's own, and ours, would only end the process.
    """
    while (hidden := getattr(handler, "instead_of", None)) is not None:
        handler = hidden.get(number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
