"""A push over http by git's own helper for it, which is started before it is needed: no `git push` in between.

    here: list for-push -> helper: what refs there are (one request) -> here: push -> helper: ok or why not (another one)

The helper (`git remote-http`) is what `git push` starts and speaks with in just this way (`gitremote-helpers`), so logins, proxies
and certificates are those of `git push`. Most of what it costs on this machine is its start: it loads what speaks http and TLS.
One that waits has done that, asks nobody, and is let go when nothing is pushed for a while. Nothing is sent before it is clear
that it understands; until then `git push` can do it instead, and find words for what is wrong.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

import trio

from sudocode_coordination.adapters.gitpush import Landed, Lost, Pushed, verdict
from sudocode_coordination.adapters.gitrun import GitRunner, Outcome, add_complaint, end

WAITS_S: Final = 60.0
"""For so long after a push another helper waits for the next. Agents that use strict leases take and release them in a row."""
MAX_REFS_BYTES: Final = 32 << 20
"""Of what a remote says of its refs: a quarter of a million of them. Read bit by bit, and not kept."""
_CHUNK: Final = 1 << 16
_LINE_BYTES: Final = 1 << 16
_LINGER_S: Final = 1.0
"""For its last words, when it has ended; and for its end, when it has nothing more to do."""
_STALE: Final = "stale info"
"""The helper's word for a ref that is not what was expected. Everything else are words of the remote."""
_SILENT: Final = "expecting report"
"""The remote never said what came of it."""


class _Ended(Exception):  # noqa: N818
    """It has nothing more to say."""


class _Unlike(Exception):  # noqa: N818
    """It does not say what it should."""


class PushHelper:
    """Pushes one ref at a time to one remote over http, each with a helper of its own.

    Attributes:
        waits_until: when the one that waits is to be let go (`trio.current_time`); infinite if none does.
    """

    def __init__(self, git: GitRunner, remote: str, scheme: str) -> None:
        self.waits_until = math.inf
        self._git = git
        self._remote = remote
        self._name = f"remote-{scheme}"
        self._ready: trio.Process | None = None

    async def wait_for_work(self) -> None:
        """Have one ready for the next push, if it comes within `WAITS_S`.

        Raises:
            GitFailedError: git can't be started.
        """
        if self._ready is not None and self._ready.poll() is not None:
            await self.close()
        if self._ready is None:
            self._ready = await self._git.open(self._name, self._remote)
        self.waits_until = trio.current_time() + WAITS_S

    async def close(self) -> None:
        """Let go of the one that waits; it has ended when this returns, also when cancelled."""
        process, self._ready, self.waits_until = self._ready, None, math.inf
        if process is not None:
            await _let_go(process)

    async def ask(self, ref: str, expected: str) -> Conversation:
        """Have the remote asked for its refs. The caller ends the conversation (`close`).

        Args:
            ref: full name of the one to be pushed.
            expected: what the remote has to have there.

        Raises:
            GitFailedError: git can't be started.
        """
        process, self._ready, self.waits_until = self._ready, None, math.inf
        if process is None:
            process = await self._git.open(self._name, self._remote)
        conversation = Conversation(process, ref, expected)
        try:
            await conversation.ask()
        except BaseException:
            await conversation.close()
            raise
        return conversation


class Conversation:
    """With one helper, about one ref.

    Attributes:
        unlike: it does not say what it should: it is no use to try it again.
    """

    def __init__(self, process: trio.Process, ref: str, expected: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.unlike = False
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._ref, self._expected = ref, expected
        self._buffer = bytearray()
        self._complaints = bytearray()
        self._sent = False
        """The remote may do it from now on."""

    async def ask(self) -> None:
        """Ask for what refs there are, and tell what is expected of one."""
        lease = f"option cas {self._ref}:{self._expected}"
        with suppress(_Ended):  # who listens finds out
            await self._say(f"option progress false\noption verbosity 0\n{lease}\nlist for-push\n")

    async def close(self) -> None:
        """It has ended when this returns, also when cancelled."""
        await _let_go(self._process)

    async def push(self, commit: str, *, limit_s: float) -> Pushed | None:
        """Set the ref. None: nothing was sent, so nothing has happened.

        Args:
            commit: what to push; it and what belongs to it are written.
            limit_s: for all of it.
        """
        over = trio.Event()

        async def overhear() -> None:  # a full pipe would stop it
            while chunk := await self._stderr.receive_some(_CHUNK):
                add_complaint(self._complaints, chunk)
            over.set()

        with trio.move_on_after(limit_s) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(overhear)
                why: str | None = ""
                try:
                    why = await self._push(commit)
                except _Unlike:
                    self.unlike = True
                except _Ended:
                    pass  # its last words may tell
                if why is not None and self._sent:
                    await self._stdin.aclose()
                    with trio.move_on_after(_LINGER_S):
                        await over.wait()
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            return Lost("unknown", f"no answer within {limit_s:g} s (git remote-http)")
        if why is None:
            return Landed()
        return self._lost(commit, why) if why or self._sent else None

    async def _push(self, commit: str) -> str | None:
        """What was wrong, in the words of `git push --porcelain`; None: nothing.

        Raises:
            _Ended: there is no answer.
            _Unlike: it can't be spoken with.
        """
        answers = [await self._line() for _ in range(3)]
        if answers[2] != "ok":
            raise _Unlike  # too old for `--force-with-lease`
        there, size = "", 0
        while line := await self._line():
            size += len(line)
            if size > MAX_REFS_BYTES:
                raise _Unlike
            sha, _, ref = line.partition(" ")
            if ref == self._ref:
                there = sha
        # What `--force-with-lease` looks at. It may change yet: the remote compares once more, with the ref locked.
        if there == commit:
            return None
        if there != self._expected:
            return _summary(_STALE)
        self._sent = True
        await self._say(f"push {commit}:{self._ref}\n\n")
        while True:  # it has a line for each ref that was listed
            what, _, rest = (await self._line()).partition(" ")
            ref, _, why = rest.partition(" ")
            if ref == self._ref and what == "ok":
                return None
            if ref == self._ref and what == "error":
                return _summary(why.strip('"'))

    async def _say(self, text: str) -> None:
        try:
            await self._stdin.send_all(text.encode())
        except trio.BrokenResourceError:
            raise _Ended from None

    async def _line(self) -> str:
        while (at := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LINE_BYTES:
                raise _Unlike
            chunk = await self._stdout.receive_some(_CHUNK)
            if not chunk:
                raise _Ended
            self._buffer += chunk
        line = self._buffer[:at].decode("utf-8", "replace")
        del self._buffer[: at + 1]
        return line

    def _lost(self, commit: str, why: str) -> Lost:
        said = self._complaints.decode("utf-8", "replace")
        told = f"!\t{commit}:{self._ref}\t{why}\n" if why else ""
        return verdict(Outcome(self._process.returncode or 128, told.encode(), said))


def _summary(why: str) -> str:
    if why == _SILENT:
        return "[remote failure] (remote failed to report status)"
    return f"[{'rejected' if why == _STALE else 'remote rejected'}] ({why})"


async def _let_go(process: trio.Process) -> None:
    """It ends by itself when nobody will say more; if not, it is ended."""
    with trio.CancelScope(shield=True):
        assert process.stdin is not None
        await process.stdin.aclose()
        with trio.move_on_after(_LINGER_S):
            await process.wait()
        await end(process)
