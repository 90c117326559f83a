"""A sync stream between two peers, once somebody has opened it: hello, frames, keepalive, bounded queue.

On the wire, after the stream protocol `/sudocode/sync/1.0.0` was agreed on:

    hello   4 bytes length · magic `SCSY` · version · kind · 8 bytes instance · 8 bytes number · features   (both sides, once)
    frame   4 bytes length · that many bytes                                                  (0 bytes: keepalive)
    probe   4 bytes of ones                                                                   (answered by a keepalive)
    mark    4 bytes: 2^32-2                                                                   (what follows is on another stream)

All numbers are big-endian. The opener's hello is `OPEN` or `MOVE`, the answer `ACCEPT` or `DUPLICATE`. `instance` is drawn at
random when a host starts; `number` counts the hellos of an instance. By them a peer knows whether a stream that comes in while
another one is up is newer than it (the other side has lost it: replace it) or a leftover of both dialling at once (refuse).
`features` is a byte that older versions neither send nor look at; bit 0: it answers probes.

A peer that does not answer is given up `silence` seconds after something was sent to it. What is sent is answered sooner or
later by itself, else a probe asks. An idle link is probed the more rarely the more of them there are: with keepalives of fifty
peers to fifty peers a machine would have nothing else to do. To a peer that answers no probes, keepalives go all the time.

A link that is relayed moves to a direct connection without a frame lost: a stream there opens with `MOVE`; once that is accepted,
each side ends what it sends on the old stream with the mark and goes on with the next frame or probe on the new one, and reads
the old one to its mark before it reads the new one. The features are those of the newer hellos from then on.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Literal, NamedTuple, Protocol

import trio

from sudocode_coordination.core.conduct import BURST_BYTES, BYTES_PER_SECOND, Bucket
from sudocode_coordination.core.wire import MAX_FRAME_BYTES
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import PeerId

SYNC_PROTOCOL: Final = "/sudocode/sync/1.0.0"
OPEN: Final = 1
ACCEPT: Final = 2
DUPLICATE: Final = 3
ANSWERS_PROBES: Final = 1
PROBE: Final = 0xFFFF_FFFF
"""In place of a frame's length."""
IDLE_PER_LINK_S: Final = 4.0
"""How long a link may be idle, for each other link that there is: a daemon sends or answers a probe every two seconds at most."""
MOVE: Final = 4
_MAGIC: Final = b"SCSY"
_VERSION: Final = 1
_HELLO: Final = struct.Struct(">4sBB8sQ")
_LENGTH: Final = struct.Struct(">I")
_MOVED: Final = 0xFFFF_FFFE
"""As a length: what follows is on the other stream."""
_MAX_HELLO_BYTES: Final = 256
"""Room for what later versions add; unknown bytes at the end are ignored."""
_PIECE_BYTES: Final = 128 << 10
"""Written at once. Yamux's window is 256 KB: a single larger write can fail in the middle after 5 s."""
_READ_BYTES: Final = 128 << 10
"""Taken from the stream at once."""


class Stream(Protocol):
    """What is used of a libp2p stream."""

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes, at most `n`; raises at the end."""

    async def write(self, data: bytes) -> None:
        """All of it."""

    async def close(self) -> None:
        """No more writes; the other side reads to the end."""

    async def reset(self) -> None:
        """Drop it, both directions."""


class Hello(NamedTuple):
    """First thing on a sync stream."""

    kind: int
    instance: bytes
    number: int
    features: int = ANSWERS_PROBES


def encode_hello(hello: Hello) -> bytes:
    """With its length in front."""
    body = _HELLO.pack(_MAGIC, _VERSION, hello.kind, hello.instance, hello.number) + bytes((hello.features,))
    return _LENGTH.pack(len(body)) + body


async def read_hello(stream: Stream) -> Hello:
    """The other side's hello; the caller sets the time limit.

    Raises:
        ProtocolError: it is none of ours.
        EOFError: the stream ended first.
    """
    (length,) = _LENGTH.unpack(await _read_exactly(stream, _LENGTH.size))
    if not _HELLO.size <= length <= _MAX_HELLO_BYTES:
        raise ProtocolError(f"hello of {length} bytes")
    body = await _read_exactly(stream, length)
    magic, version, kind, instance, count = _HELLO.unpack_from(body)
    if magic != _MAGIC or version != _VERSION:
        raise ProtocolError(f"hello is not of this protocol: {magic!r}, version {version}")
    return Hello(kind, instance, count, features=body[_HELLO.size] if length > _HELLO.size else 0)


async def _read_exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.read(size - len(data))
        if not piece:
            raise EOFError("the stream ended early")
        data += piece
    return data


class LinkLimits(NamedTuple):
    """Of one link; times in seconds."""

    keepalive: float = 2.5
    """Nothing heard for this long after something was sent: a probe asks for an answer. A link may be idle for so long at least."""
    silence: float = 7.0
    """A peer that has not answered for this long is frozen or gone: a probe, its answer, and some delay."""
    frame: float = 30.0
    """A started frame must be there in whole: 1 MB at 35 KB/s."""
    write: float = 10.0
    """One piece of 128 KB must have been taken; longer than Yamux's own 5 s."""
    move: float = 15.0
    """From a `MOVE` that was accepted to the last frame on the old stream: as long as a frame and a written piece may take."""
    goodbye: float = 1.0
    """What is queued may still go out after `finish`, and the other side read it."""
    queue_bytes: int = 16 * MAX_FRAME_BYTES
    """Outbound queue of one peer. A join of the whole state is a few frames; a peer 16 MB behind does not read."""
    frames: float = 2_000.0
    """Inbound, a second, keepalives too: three times what a peer brings through one stream. An empty frame costs little, but a
    stream can be full of nothing else."""
    burst_frames: float = 20_000.0
    """At once: what has piled up while this machine slept."""


Direction = Literal["out", "in"]


class Link:
    """One open sync stream. `run` carries it until it ends; `close_nowait` ends it, and why is in `reason`. `fault`: the peer broke
    a rule.

    Args:
        relayed: the connection under it goes through a relay; such a link can `move`.
        on_moved: called when it has moved in both directions.
    """

    def __init__(
        self,
        peer: PeerId,
        stream: Stream,
        *,
        address: str,
        direction: Direction,
        remote: Hello,
        on_frame: Callable[[Link, bytes], None],
        limits: LinkLimits,
        greeting: bytes = b"",
        relayed: bool = False,
        on_moved: Callable[[Link], None] = lambda _link: None,
    ) -> None:
        self.peer = peer
        self.relayed = relayed
        self._out = self._in = stream
        self._next: Stream | None = None
        """The stream to go on with, while it moves."""
        self.left_behind: object = None
        """For whoever moves it: the connection that it moves away from."""
        self._moving = trio.Event()
        self._move_by: float | None = None
        self._on_moved = on_moved
        self.address = address
        self.direction: Direction = direction
        self.remote = remote
        self.reason = ""
        self.fault = False
        self.finished = trio.Event()
        self._on_frame = on_frame
        self._limits = limits
        self._queue: deque[bytes] = deque([greeting] if greeting else [])
        self._queued_bytes = len(greeting)
        self._wake = trio.Event()
        self._scope = trio.CancelScope()
        self._finishing = False
        now = trio.current_time()
        self._last_heard = now
        self._last_sent = now
        self._unheard_since: float | None = None
        """Since when something was sent, and nothing heard."""
        self._probed = False
        self._frame_since: float | None = None
        self._write_since: float | None = None
        self._bytes = Bucket(BYTES_PER_SECOND, BURST_BYTES, now)
        self._frames = Bucket(limits.frames, limits.burst_frames, now)

    def send_nowait(self, frame: bytes) -> bool:
        """Queue a frame; False if the queue is full, and the caller should give the peer up."""
        if self._queued_bytes + len(frame) > self._limits.queue_bytes:
            return False
        self._put(_LENGTH.pack(len(frame)) + frame)
        if frame and self._unheard_since is None:
            self._unheard_since = trio.current_time()
        return True

    def _put(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued_bytes += len(data)
        self._wake.set()

    @property
    def moving(self) -> bool:
        """From `move` until all is on the new stream."""
        return self._next is not None

    def move(self, stream: Stream, *, address: str, direction: Direction, remote: Hello) -> None:
        """Go on with another stream, on which the hellos are said: what `MOVE` means."""
        self._next = stream
        self.address, self.direction, self.remote = address, direction, remote
        self._move_by = trio.current_time() + self._limits.move
        self._moving.set()
        self._wake.set()

    def _moved(self) -> None:
        """One direction has; when both have, nothing is left on the old stream."""
        if self._next is not None and self._out is self._in is self._next:
            self._next = self._move_by = None
            self.relayed = False
            self._on_moved(self)

    def close_nowait(self, reason: str) -> None:
        """End at once; what is queued is lost."""
        self.reason = self.reason or reason
        self._scope.cancel()

    def finish_nowait(self, reason: str) -> None:
        """Send what is queued, then end; frames that still come in are dropped. Bounded by `limits.goodbye`."""
        self.reason = self.reason or reason
        self._finishing = True
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + self._limits.goodbye)
        self._wake.set()

    def tick(self, now: float, paused: float, links: int = 1) -> str | None:
        """Called about every second: asks a silent peer whether it lives, and tells why the link should end, if it should.

        Args:
            now: `trio.current_time()`.
            paused: seconds for which this process did not run; they are nobody's silence.
            links: how many there are.
        """
        if paused:
            self._last_heard += paused
            self._last_sent += paused
            if self._unheard_since is not None:
                self._unheard_since += paused
            if self._frame_since is not None:
                self._frame_since += paused
            if self._write_since is not None:
                self._write_since += paused
            if self._move_by is not None:
                self._move_by += paused
        if self._frame_since is not None and now - self._frame_since > self._limits.frame:
            self.fault = True
            return f"a frame did not arrive within {self._limits.frame:.0f} s"
        if self._write_since is not None and now - self._write_since > self._limits.write:
            return f"took nothing for {self._limits.write:.0f} s"
        if self._move_by is not None and now > self._move_by:
            return f"did not move to the direct connection within {self._limits.move:.0f} s"
        if self.remote.features & ANSWERS_PROBES:
            return self._ask(now, max(self._limits.keepalive, IDLE_PER_LINK_S * (links - 1)))
        if now - self._last_heard > self._limits.silence:
            return f"silent for {now - self._last_heard:.0f} s"
        if now - self._last_sent >= self._limits.keepalive and not self._queue and not self._finishing:
            self.send_nowait(b"")
        return None

    def _ask(self, now: float, idle: float) -> str | None:
        since = self._unheard_since
        if since is None:
            if now - self._last_heard >= idle:
                self._probe(self._last_heard if idle <= self._limits.keepalive else now)
        elif now - since > self._limits.silence:
            return f"silent for {now - self._last_heard:.0f} s"
        elif now - since >= self._limits.keepalive and not self._probed:
            self._probe(since)
        return None

    def _probe(self, since: float) -> None:
        if not self._finishing:
            self._probed, self._unheard_since = True, since
            self._put(_LENGTH.pack(PROBE))

    async def run(self) -> None:
        """Carry frames until the link ends. Resets the stream; leaves the connection to the caller. Never raises."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guarded, self._write)
                    await self._guarded(self._read)
                    if not self._finishing:
                        nursery.cancel_scope.cancel()
        finally:
            self.reason = self.reason or "closed"
            self.finished.set()
            with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                for stream in {id(stream): stream for stream in (self._in, self._out, self._next) if stream is not None}.values():
                    await self._guarded(stream.reset)

    async def _guarded(self, action: Callable[[], Awaitable[None]]) -> None:
        # The stream layers raise some thirty kinds of exceptions, among them KeyError when a peer closes at the wrong
        # moment. None of them may do more than end this one link.
        try:
            await action()
        except ProtocolError as error:
            self.fault = True
            self.close_nowait(error.message)
        except Exception as error:  # noqa: BLE001
            self.close_nowait(str(error) or "closed by the peer")

    async def _read(self) -> None:
        buffer = bytearray()
        while True:
            data = await self._in.read(_READ_BYTES)
            if not data:
                self.close_nowait("closed by the peer")
                return
            now = trio.current_time()
            self._last_heard = now
            self._unheard_since, self._probed = None, False
            if not self._bytes.take(len(data), now):
                raise ProtocolError(f"sends too much: over {BYTES_PER_SECOND >> 20} MB a second")
            if self._finishing:
                continue
            buffer += data
            start = 0
            frames = 0
            while len(buffer) - start >= 4:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if length == PROBE:
                    if not self._queue:  # what waits there is an answer, too
                        self.send_nowait(b"")
                    start += _LENGTH.size
                    frames += 1
                    self._frame_since = None
                    continue
                if length == _MOVED and self.relayed:
                    await self._read_on(len(buffer) - start - 4)
                    start += 4
                    break
                if length > MAX_FRAME_BYTES:
                    raise ProtocolError(f"announced a frame of {length} bytes, {MAX_FRAME_BYTES} allowed")
                end = start + 4 + length
                if end > len(buffer):
                    break
                if length:
                    self._on_frame(self, bytes(buffer[start + 4 : end]))
                start = end
                frames += 1
                self._frame_since = None
            if start:
                del buffer[:start]
            if not self._frames.take(frames, now):
                raise ProtocolError(f"sends too many frames: over {self._limits.frames:.0f} a second")
            if not buffer:
                self._frame_since = None
            elif self._frame_since is None:
                self._frame_since = now

    def _must_move(self) -> bool:
        return self._next is not None and self._out is not self._next

    def _has_work(self) -> bool:
        return bool(self._queue) or self._finishing or self._must_move()

    async def _read_on(self, left_over: int) -> None:
        """The old stream was read to its mark: the rest is on the new one, as soon as that is known here."""
        if left_over:
            raise ProtocolError("moved, and went on all the same")
        old = self._in
        with trio.fail_after(self._limits.move):
            await self._moving.wait()
        if self._next is None or self._next is old:
            raise ProtocolError("moved to nowhere")
        self._in = self._next
        self._moved()

    async def _write(self) -> None:
        while True:
            if self._next is not None and self._must_move() and not self._finishing:
                self._write_since = trio.current_time()
                await self._out.write(_LENGTH.pack(_MOVED))
                self._write_since = None
                self._out = self._next
                self._moved()
            while self._queue and not (self._must_move() and not self._finishing):
                data = self._queue.popleft()
                while self._queue and len(data) + len(self._queue[0]) <= _PIECE_BYTES:
                    data += self._queue.popleft()
                for start in range(0, len(data), _PIECE_BYTES):
                    self._write_since = trio.current_time()
                    await self._out.write(data[start : start + _PIECE_BYTES])
                    self._write_since = None
                self._queued_bytes -= len(data)
                self._last_sent = trio.current_time()
            if self._finishing:
                # The other side reads to the end and then closes: `_read` ends, or the deadline of `finish_nowait` comes.
                await self._out.close()
                return
            self._wake = trio.Event()
            if not self._has_work():
                await self._wake.wait()
