# SPDX-License-Identifier: Apache-2.0
"""What a training makes of signals."""

from __future__ import annotations

import signal

import pytest

from coltran.training import signals


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
