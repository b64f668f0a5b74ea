"""Signals that stop a run: the loop saves and stops after the current step.

This is no guarantee, unlike periodic checkpoints: Python handles a signal only between two of its
instructions, so a long kernel delays it, and SIGKILL cannot be handled.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from train.errors import InterruptedByUserError, PreemptedError, WindTunnelError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""SIGTERM and SIGUSR2 of a scheduler, Ctrl-C, and a closed terminal."""


class StopRequest:
    """Signal that asked for a stop, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.granted = False
        """Whether the run was stopped by it."""

    def __bool__(self) -> bool:
        return self.signal is not None

    def error(self, where: str) -> WindTunnelError:
        """Error to raise after saving."""
        assert self.signal is not None
        self.granted = True
        return _stopped(self.signal, where)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the signals of STOPPING into a flag, and restore the previous handlers at the end.

    After a stop the previous handler is called too, so that a scheduler's, such as submitit's, can
    requeue the job once everything is saved.
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
    """End the command at once at a signal: before and after the loop there is nothing to save.

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
    """Handle all signals that are not ignored, as under nohup; return the previous handlers."""
    return {
        number: signal.signal(number, handler)
        for number in STOPPING
        if signal.getsignal(number) is not signal.SIG_IGN
    }


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _chain(handler: Any, number: signal.Signals) -> None:  # noqa: ANN401
    """Call a scheduler's handler, even one that stops_at_once has replaced.

    Python's default handlers and ours are not called: they would only end the process.
    """
    while (hidden := getattr(handler, "instead_of", None)) is not None:
        handler = hidden.get(number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
