"""A push to a repository on this machine, spoken with its `git receive-pack`: no `git push` and no `pack-objects` in between.

    receive-pack: what refs there are -> here: old new ref, pack -> receive-pack: unpacked, ok or why not -> its hooks, its end

That is all of git's protocol that one ref takes (`gitprotocol-pack`). Only for a path that git itself would go to by starting this
very program, and only if no setting says anything else of the way there; everything else is git's own `push` to do. Nothing is
sent before it is clear that both sides mean the same, so whoever is told `None` can push by other means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import trio

from sudocode_coordination.adapters.gitpush import Landed, Lost, Pushed, verdict
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner, Outcome, end

T = TypeVar("T")
MAX_REFS_BYTES: Final = 32 << 20
"""Of what a remote says of its refs: a quarter of a million of them. Read bit by bit, and not kept."""
MAX_REPORT_BYTES: Final = 64 << 10
"""Of what came of the push, and of what hooks say with it."""
_CHUNK: Final = 1 << 16
_PACKET_BYTES: Final = 65_520
"""The longest there is, with its length."""
_NEEDED: Final = frozenset((b"report-status", b"side-band-64k"))
_UNUSABLE: Final = frozenset((b"no-thin",))


async def start_and_make(git: GitRunner, path: str, make: Callable[[], Awaitable[T]]) -> tuple[trio.Process, T]:
    """Start the remote's `git receive-pack`, and make what it is to be told while it starts. The caller ends it (`end`).

    Raises:
        GitFailedError: it can't be started, or what is wanted can't be made.
    """
    process: trio.Process | None = None
    made: list[T] = []
    failures: list[GitFailedError] = []

    async def start() -> None:
        nonlocal process
        try:
            process = await git.serve(path)
        except GitFailedError as failure:
            failures.append(failure)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            for _ in range(2):  # once it has begun, a thread does the rest
                await trio.lowlevel.checkpoint()
            try:
                made.append(await make())
            except GitFailedError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]
    except BaseException:
        if process is not None:
            await end(process)
        raise
    assert process is not None
    return process, made[0]


class Wanted(NamedTuple):
    """What is to be pushed."""

    commit: str
    ref: str
    expected: str
    """What the remote has to have there."""
    algorithm: str
    pack: bytes


async def push_directly(
    process: trio.Process, wanted: Wanted, *, limit_s: float, answered: Callable[[Pushed], Awaitable[None]]
) -> bool | Lost:
    """Speak with `git receive-pack` until it ends. False: nothing was sent, so nothing has happened. `Lost`: it gave no answer.

    Args:
        process: it; `GitRunner.serve` starts it, the caller ends it.
        wanted: the push.
        limit_s: for all of it.
        answered: told what came of it, before the remote's hooks and its housekeeping that come after that have ended.
    """
    speaking = _Speaking(process, wanted)
    told = False
    with trio.move_on_after(limit_s):
        outcome = await speaking.until_told()
        if outcome is None:
            return False
        told = True
        await answered(outcome)
        await speaking.until_over()
    if told or not speaking.sent:
        return told
    return Lost("unknown", f"no answer within {limit_s:g} s (git receive-pack)")


class _Unlike(Exception):  # noqa: N818
    """The other side does not say what it should."""


class _Speaking:
    """One conversation."""

    def __init__(self, process: trio.Process, wanted: Wanted) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.sent = False
        """The remote may do it from now on."""
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._wanted = wanted
        self._buffer = bytearray()

    async def until_told(self) -> Pushed | None:
        """What came of it; None: nothing was sent."""
        wanted = self._wanted
        try:
            there, options = await self._refs()
        except _Unlike:
            return None
        # What `--force-with-lease` looks at. It may change yet: the remote compares once more, with the ref locked.
        if there == wanted.commit:
            await self._hang_up()
            return Landed()
        if there != wanted.expected:
            await self._hang_up()
            return self._lost("[rejected] (stale info)", "")
        line = f"{wanted.expected} {wanted.commit} {wanted.ref}\0 report-status side-band-64k {options}".encode()
        self.sent = True
        try:
            await self._stdin.send_all(b"%04x%s0000" % (len(line) + 4, line) + wanted.pack)
            await self._stdin.aclose()
        except trio.BrokenResourceError:
            pass  # it took no more of it, and may say why
        return await self._report()

    async def _hang_up(self) -> None:
        try:
            await self._stdin.send_all(b"0000")
            await self._stdin.aclose()
        except trio.BrokenResourceError:
            pass  # it has gone by itself

    async def until_over(self) -> None:
        """It has ended, with its hooks."""
        self._buffer.clear()
        while await self._stdout.receive_some(_CHUNK):
            pass
        await self._process.wait()

    async def _refs(self) -> tuple[str, str]:
        """What the ref is, and the options to be named.

        Raises:
            _Unlike: it can't be spoken with.
        """
        name, there = self._wanted.ref.encode(), ""
        options: list[bytes] | None = None
        size = 0
        while (packet := await self._packet()) is not None:
            size += len(packet)
            if size > MAX_REFS_BYTES:
                raise _Unlike
            line, _, said = packet.rstrip(b"\n").partition(b"\0")
            if options is None:
                options = said.split()
            sha, _, ref = line.partition(b" ")
            if ref == name:
                there = sha.decode("ascii", "replace")
        options = options or []
        kind = f"object-format={self._wanted.algorithm}"
        formats = [option for option in options if option.startswith(b"object-format=")]
        old_git = not formats and self._wanted.algorithm == "sha1"
        if not options or not _NEEDED.issubset(options) or not _UNUSABLE.isdisjoint(options):
            raise _Unlike
        if not old_git and kind.encode() not in formats:
            raise _Unlike
        return there, "" if old_git else kind

    async def _packet(self) -> bytes | None:
        """The next one; None: the end of a part.

        Raises:
            _Unlike: it is none, or there is none.
        """
        head = await self._take(4)
        try:
            length = int(head, 16)
        except ValueError:
            raise _Unlike from None
        if length == 0:
            return None
        if not 4 <= length <= _PACKET_BYTES:
            raise _Unlike
        return await self._take(length - 4)

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            chunk = await self._stdout.receive_some(_CHUNK)
            if not chunk:
                raise _Unlike
            self._buffer += chunk
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _report(self) -> Pushed:
        report, said = bytearray(), bytearray()
        try:
            while not report.endswith(b"0000"):
                packet = await self._packet()
                if packet is None:
                    break
                band, data = packet[:1], packet[1:]
                if band == b"\1":
                    report += data
                elif band in (b"\2", b"\3") and len(said) < MAX_REPORT_BYTES:
                    said += data
                if len(report) > MAX_REPORT_BYTES:
                    break
        except _Unlike:
            pass  # it ended without a word, or in the middle of one
        words = "".join(f"remote: {line}\n" for line in said.decode("utf-8", "replace").splitlines())
        lines = _lines(bytes(report))
        ref = self._wanted.ref
        if lines[:1] == ["unpack ok"]:
            if f"ok {ref}" in lines[1:]:
                return Landed()
            for line in lines[1:]:
                if line.startswith(f"ng {ref} "):
                    return self._lost(f"[remote rejected] ({line.removeprefix(f'ng {ref} ')})", words)
        elif lines[:1] and lines[0].startswith("unpack "):
            return self._lost(f"[remote rejected] (unpacker error: {lines[0].removeprefix('unpack ')})", words)
        return self._lost("[remote failure] (remote failed to report status)", words)

    def _lost(self, summary: str, words: str) -> Lost:
        """In the words of `git push --porcelain`, so that they mean the same."""
        return verdict(Outcome(1, f"!\t{self._wanted.commit}:{self._wanted.ref}\t{summary}\n".encode(), words))


def _lines(report: bytes) -> list[str]:
    """A report's lines, which are packets in packets; the last one is not complete if it was cut off."""
    lines: list[str] = []
    at = 0
    while at + 4 <= len(report):
        try:
            length = int(report[at : at + 4], 16)
        except ValueError:
            break
        if length < 4 or at + length > len(report):
            break
        lines.append(report[at + 4 : at + length].decode("utf-8", "replace").rstrip("\n"))
        at += length
    return lines
