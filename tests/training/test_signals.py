"""Signals outside of the loop, in this process."""

import os
import signal
import time

import pytest

from mixlm.training.signals import Signals, Stopped


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
