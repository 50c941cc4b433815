"""Signals in this process: those that are taken, and what a command that they stop leaves with."""

import os
import signal
import time

import pytest

from mixlm.errors import Stopped
from mixlm.gin_config.flags import run_or_explain_error
from mixlm.training.signals import Signals


def test_a_signal_that_was_swallowed_stops_the_run_before_its_first_step():
    signals, noted = Signals(), []
    with signals.handled():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Stopped:
            pass  # as a destructor does, or a library that catches everything
        else:
            pytest.fail("no signal came")
        with pytest.raises(Stopped, match="SIGTERM came"), signals.deferred(noted.append):
            pytest.fail("the loop has begun")
    assert noted == []


def test_the_warning_of_a_scheduler_is_a_signal_like_any_other():
    signals, noted = Signals(), []
    # As a study's, whose runs take each signal within it.
    with Signals().handled(), signals.handled(), signals.deferred(noted.append):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        assert noted == ["SIGUSR1"]


def test_a_signal_that_somebody_else_has_taken_stays_theirs():
    came, before = [], signal.signal(signal.SIGUSR2, lambda *_: came.append("theirs"))
    try:
        with Signals().handled():
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert came == ["theirs"] and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_command_whose_run_was_stopped_leaves_with_75(monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)

    def stopped():
        raise Stopped("SIGTERM", "saved after step 3")

    run_or_explain_error(stopped)
    assert codes == [75]
    assert capsys.readouterr().err == "SIGTERM came: saved after step 3; the same command goes on from there.\n"
