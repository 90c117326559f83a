"""Runs something that may die, again and again, and lets it end in peace when it is cancelled; when to look at things while nothing
happens."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

log = logging.getLogger(__name__)

GOODBYE_SECONDS: Final = 6.0
"""For the end of one life, whatever hangs in it: goodbyes to peers take 1.5 s, closing up to 3 s."""
_RESTART_SECONDS: Final = (0.1, 1.0, 5.0, 30.0)
"""Pauses before the next life; the last one repeats."""
_CALM_SECONDS: Final = 60.0
"""A life of this length makes up for the deaths before it."""


async def supervise(
    life: Callable[[trio.Event], Awaitable[None]],
    *,
    ended: Callable[[], None],
    fatal: Callable[[Exception], bool],
) -> None:
    """Live, and live again after dying of an exception, until cancelled.

    Args:
        life: gets an event that is set when it should come to its end. It is never cancelled before that plus
            `GOODBYE_SECONDS`: libp2p answers a cancellation with BaseExceptionGroups and sockets left open.
        ended: called after each life.
        fatal: whether an exception is to be raised instead of living on.
    """
    deaths = 0
    while True:
        done = trio.Event()
        failures: list[Exception] = []
        began = trio.current_time()

        async def live(caller: trio.Nursery, done: trio.Event = done, failures: list[Exception] = failures) -> None:
            with trio.CancelScope(shield=True) as scope:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_limit, scope, done)
                        await life(done)
                        nursery.cancel_scope.cancel()
                except* Exception as group:  # noqa: BLE001 - it may die of anything; it is told in the log and lives again
                    failures.extend(leaves(group))
            ended()
            caller.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live, nursery)
            try:
                await trio.Event().wait()  # until cancelled, from outside or at the end of `live`
            finally:
                done.set()
        for failure in failures:
            if fatal(failure):
                raise failure
            log.error("it died and is started again: %r", failure)
        deaths = 0 if trio.current_time() - began > _CALM_SECONDS else deaths
        await trio.sleep(_RESTART_SECONDS[min(deaths, len(_RESTART_SECONDS) - 1)])
        deaths += 1


async def _limit(scope: trio.CancelScope, done: trio.Event) -> None:
    await done.wait()
    scope.deadline = trio.current_time() + GOODBYE_SECONDS


def leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    """The exceptions in a group of groups."""
    found: list[Exception] = []
    for error in group.exceptions:
        found.extend(leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def explain(error: BaseException) -> str:
    """The innermost cause's text: libp2p wraps "connection refused" three times."""
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ExceptionGroup) and error.exceptions:
        return explain(error.exceptions[0])
    return str(error) or type(error).__name__


def next_beat(period_s: float) -> float:
    """The next whole multiple of a period, by trio's clock. Whoever looks every so often sleeps until then, so that a process at
    rest is woken once for all of them. (Trio's clock begins at random: processes don't wake together.)"""
    return (trio.current_time() // period_s + 1) * period_s
