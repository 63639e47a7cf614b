# SPDX-License-Identifier: Apache-2.0
"""What a training makes of signals, and that the tests do not depend on what their parent made of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coltran.training import signals

ROOT = Path(__file__).resolve().parent.parent


def test_a_signal_delivered_twice_at_once_is_one():
    with signals.caught_signals() as caught:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert caught[0] == signal.SIGTERM


def test_a_second_signal_later_acts_as_usual(monkeypatch):
    clock = iter([10.0, 10.0, 12.0])
    monkeypatch.setattr(signals.time, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), signals.caught_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_was_ignored_at_the_start_stays_ignored():
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.caught_signals() as caught:
            signal.raise_signal(signal.SIGINT)
        assert not caught and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)


def test_signals_act_as_usual_in_the_tests_whatever_the_parent_made_of_them():
    code = """import signal
numbers = signal.SIGINT, signal.SIGTERM, signal.SIGCHLD
for number in numbers:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
import tests.conftest
assert signal.SIG_IGN not in map(signal.getsignal, numbers)
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
