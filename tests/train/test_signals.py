"""Signals ask for a stop; the previous handlers come back and are called after a granted stop."""

import contextlib
import os
import signal
import time

import pytest

from train.errors import InterruptedByUserError, PreemptedError
from train.signals import STOPPING, stop_requests, stops_at_once


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (signal.SIGTERM, PreemptedError, 75),
        (signal.SIGUSR2, PreemptedError, 75),
        (signal.SIGHUP, PreemptedError, 75),
        (signal.SIGINT, InterruptedByUserError, 130),
    ],
)
def test_a_signal_becomes_a_request_and_an_exit_code(number, kind, code):
    with stop_requests() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        error = stop.error("after step 7")
    assert type(error) is kind
    assert error.exit_code == code
    assert str(error) == f"stopped by {number.name} after step 7; the same command continues"


def test_the_handlers_before_it_come_back_after_an_error_too():
    before = {number: signal.getsignal(number) for number in STOPPING}

    def fail():
        with stop_requests():
            assert all(signal.getsignal(number) is not before[number] for number in STOPPING)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert {number: signal.getsignal(number) for number in STOPPING} == before


@pytest.fixture
def scheduler():
    """A handler of SIGUSR2 that was there before, and the signals it was called with."""
    calls = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
    yield calls
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("command", [contextlib.nullcontext, stops_at_once])
def test_a_scheduler_s_handler_is_called_after_a_stop_was_granted(scheduler, command):
    """Also where the handlers of the command lie between those of the loop and the scheduler."""

    def stop():
        with command(), stop_requests() as request:
            os.kill(os.getpid(), signal.SIGUSR2)
            # not before the state is saved
            assert scheduler == []
            raise request.error("after step 7")

    with pytest.raises(PreemptedError, match="after step 7"):
        stop()
    assert scheduler == [signal.SIGUSR2]


def test_a_signal_that_stopped_nothing_is_not_passed_on(scheduler):
    with stop_requests():
        os.kill(os.getpid(), signal.SIGUSR2)  # the run ends by itself
    assert scheduler == []


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not request
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, PreemptedError), (signal.SIGINT, InterruptedByUserError)]
)
def test_outside_the_loop_a_signal_ends_the_command(number, kind):
    def stop():
        with stops_at_once():
            os.kill(os.getpid(), number)
            time.sleep(1.0)

    before = signal.getsignal(number)
    with pytest.raises(kind, match=f"stopped by {number.name} outside the training loop"):
        stop()
    assert signal.getsignal(number) is before
