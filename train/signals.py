"""Signals ask for a stop; the loop grants it at the next step boundary, after saving."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from train.errors import InterruptedByUserError, PreemptedError, WindTunnelError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """The signal that asked for a stop, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def error(self, where: str) -> WindTunnelError:
        """The error to end with, once everything is saved."""
        assert self.signal is not None
        message = f"stopped by {self.signal.name} {where}; the same command continues"
        if self.signal is signal.SIGINT:
            return InterruptedByUserError(message)
        return PreemptedError(message)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGINT and SIGUSR2 into a flag; the handlers before it return at the end."""
    request = StopRequest()

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal = signal.Signals(number)

    before = {number: signal.signal(number, remember) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
