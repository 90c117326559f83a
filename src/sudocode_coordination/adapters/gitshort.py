"""The way past `git push`: found when nobody waits, used while the settings that say so hold, given up where it does not serve."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias

from sudocode_coordination.adapters.gitdirect import Wanted, push_directly, start_and_make
from sudocode_coordination.adapters.githelper import PushHelper
from sudocode_coordination.adapters.gitobjects import Made
from sudocode_coordination.adapters.gitpush import Lost, Pushed, with_grace
from sudocode_coordination.adapters.gitrun import GitRunner, end
from sudocode_coordination.adapters.gitway import Way, find_way

STOP_GRACE_S: Final = 2.0
"""What a push that is under way gets to end when the daemon stops: cut off, nobody would know whether it has landed."""
Told: TypeAlias = Callable[[str, Pushed, Made | None], Awaitable[None]]
"""Takes the commit, what came of it, and what of it is not written yet."""


class ShortWay:
    """Pushes to one remote without `git push`, where that would do the same.

    Args:
        remote: its name.
        timeout_s: limit of one push.
    """

    def __init__(self, remote: str, timeout_s: float) -> None:
        self._remote = remote
        self._timeout_s = timeout_s
        self._git: GitRunner | None = None
        self._way: Way | None = None
        self._known = False
        """Whether it has been looked for, since the settings were read."""
        self._helper: PushHelper | None = None

    @property
    def waits_until(self) -> float:
        """When `close` is due, as nothing was pushed for long (`trio.current_time`); infinite if nothing is kept ready."""
        return math.inf if self._helper is None else self._helper.waits_until

    async def renew(self, git: GitRunner) -> None:
        """The settings were read anew: there may be another way, or none."""
        await self.close()
        self._git, self._way, self._known, self._helper = git, None, False, None

    async def close(self) -> None:
        """Keep nothing ready. No child is left, also when cancelled."""
        if self._helper is not None:
            await self._helper.close()

    async def prepare(self) -> None:
        """Something was pushed, and nobody waits now: the next push may go faster.

        Raises:
            GitFailedError: the settings can't be read, or git can't be started.
        """
        assert self._git is not None
        if not self._known:
            self._way, self._known = await find_way(self._git, self._remote), True
            if self._way is not None and self._way.scheme != "path":
                self._helper = PushHelper(self._git, self._remote, self._way.scheme)
        if self._helper is not None and self._way is not None:
            await self._helper.wait_for_work()

    async def scheme(self) -> Literal["path", "http"] | None:
        """How it goes now; None: by `git push`."""
        if self._way is not None and not self._way.holds:
            await self.close()
            self._way, self._known, self._helper = None, False, None
        if self._way is None:
            return None
        return "path" if self._way.scheme == "path" else "http"

    async def by_path(self, make: Callable[[], Awaitable[tuple[Made, Wanted]]], told: Told) -> bool:
        """Push to a repository on this machine. False: nothing was sent.

        Args:
            make: makes what is to be pushed, while git is started.
            told: what came of it, before the remote's hooks and its housekeeping that come after that have ended.

        Raises:
            GitFailedError: git can't be started, or `make` failed.
        """
        assert self._git is not None
        assert self._way is not None
        done: bool | Lost = Lost("unknown", "cut off")
        process, (made, wanted) = await start_and_make(self._git, self._way.path, make)
        try:

            async def answered(outcome: Pushed) -> None:
                await told(wanted.commit, outcome, made)

            async def speak() -> None:
                nonlocal done
                done = await push_directly(process, wanted, limit_s=self._timeout_s, answered=answered)

            await with_grace(speak, STOP_GRACE_S)
        finally:
            await end(process)
        if isinstance(done, Lost):
            await told(wanted.commit, done, None)
            return True
        if not done:
            self._way = None  # until settings change: git's own push knows what to do, and what to say
        return done

    async def over_http(self, make: Callable[[], Awaitable[str]], ref: str, expected: str, told: Told) -> bool:
        """Push over http. False: nothing was sent.

        Args:
            make: writes what is to be pushed, while the remote is asked for its refs, and returns the commit.
            ref: full name.
            expected: what the remote has to have there.
            told: what came of it.

        Raises:
            GitFailedError: git can't be started, or `make` failed.
        """
        assert self._helper is not None
        sent = True
        conversation = await self._helper.ask(ref, expected)
        try:
            commit = await make()

            async def speak() -> None:
                nonlocal sent
                outcome = await conversation.push(commit, limit_s=self._timeout_s)
                if outcome is None:
                    sent = False
                else:
                    await told(commit, outcome, None)

            await with_grace(speak, STOP_GRACE_S)
        finally:
            await conversation.close()
        if conversation.unlike and not sent:
            self._way = None
        return sent
