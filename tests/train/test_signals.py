"""A signal asks for a stop, once, and the handlers before it come back."""

import os
import signal

import pytest

from train.errors import InterruptedByUserError, PreemptedError
from train.signals import STOPPING, stop_requests


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (signal.SIGTERM, PreemptedError, 75),
        (signal.SIGUSR2, PreemptedError, 75),
        (signal.SIGINT, InterruptedByUserError, 130),
    ],
)
def test_a_signal_becomes_a_request_and_an_exit_code(
    number: signal.Signals, kind: type[Exception], code: int
) -> None:
    with stop_requests() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        error = stop.error("after step 7")
    assert type(error) is kind
    assert error.exit_code == code
    assert str(error) == f"stopped by {number.name} after step 7; the same command continues"


def test_the_handlers_before_it_come_back_after_an_error_too() -> None:
    before = {number: signal.getsignal(number) for number in STOPPING}

    def fail() -> None:
        with stop_requests():
            assert all(signal.getsignal(number) is not before[number] for number in STOPPING)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert {number: signal.getsignal(number) for number in STOPPING} == before
