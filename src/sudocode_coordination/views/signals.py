"""Signals while the view has the terminal: it must be as it was before, however the view ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType


def leave_on_signals(leave: Callable[[int], None]) -> None:
    """Call `leave` with the exit code on SIGTERM and SIGHUP; to be called in the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, partial(leave, 128 + number))


def resume_only_what_was_paused() -> None:
    """Keep Textual's SIGCONT handler from starting its threads a second time: it takes every SIGCONT for the end of a pause that
    it began, so that after a SIGSTOP the process would never end. Without its handlers (in tests) nothing is done."""
    pause, resume = signal.getsignal(signal.SIGTSTP), signal.getsignal(signal.SIGCONT)
    if not callable(pause) or not callable(resume):
        return
    paused = False

    def on_pause(number: int, frame: FrameType | None) -> None:
        nonlocal paused
        paused = True
        pause(number, frame)

    def on_resume(number: int, frame: FrameType | None) -> None:
        nonlocal paused
        if paused:
            paused = False
            resume(number, frame)

    signal.signal(signal.SIGTSTP, on_pause)
    signal.signal(signal.SIGCONT, on_resume)
