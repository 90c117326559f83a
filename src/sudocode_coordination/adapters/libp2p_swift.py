"""The short way of a frame through libp2p: no more system calls, locks and task switches than it needs.

    write   Link -> [stream, Yamux, Noise] -> one `send_all`
    read    one `receive_some` -> all Noise messages in it -> plain data frames go right into their stream's buffer -> Link

Fault: py-libp2p reads the length of each Noise message and the message with a system call each, takes a dozen locks for a frame
(each of which lets all other tasks run first), and formats a log line at every step that nobody reads. In a mesh of fifty that is
more than half of what a burst of leases costs. Here only the usual case goes another way; whatever is rare (a closed stream, an
empty window, other kinds of frames, a lock that is held) is left to libp2p. On the wire nothing differs.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.net_stream import StreamState
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.yamux.yamux import HEADER_SIZE, TYPE_DATA, YAMUX_HEADER_FORMAT

from sudocode_coordination.adapters.libp2p_yamux import SteadyYamux, use_steady_yamux

_HEADER: Final = struct.Struct(YAMUX_HEADER_FORMAT)
_RECEIVE_BYTES: Final = 64 << 10
"""Taken from a socket at once: as much as one Noise message may have."""


def use_swift_yamux() -> None:
    """In place of libp2p's own, wherever a connection gets a muxer from now on."""
    use_steady_yamux()
    multistream: Any = muxer_multistream
    multistream.Yamux = SwiftYamux


class SwiftYamux(SteadyYamux):
    """Yamux whose plain data frames take the short way, over Noise."""

    _noise: NoiseTransportReadWriter | None = None
    _send: Callable[[bytes], Awaitable[None]]

    async def handle_incoming(self) -> None:
        """Until the connection ends. At its beginning nothing has been read that is not a whole frame."""
        session = self.secured_conn
        if isinstance(session, SecureSession) and isinstance(session.conn, NoiseTransportReadWriter):
            swift: Any = session
            swift.read = _Reader(self, session, session.conn).read
            self._send = _sender_of(session.conn.read_writer.read_write_closer)
            self._noise = session.conn
        await super().handle_incoming()

    async def _write(self, data: bytes) -> None:
        """One frame, in its turn."""
        noise = self._noise
        if noise is None:
            await super()._write(data)
            return
        packets = b""
        for start in range(0, len(data), MAX_PLAINTEXT_LENGTH):
            sealed = noise.encrypt(data[start : start + MAX_PLAINTEXT_LENGTH])
            packets += len(sealed).to_bytes(2, "big") + sealed
        await self._send(packets)


class _Reader:
    """In place of a session's `read`, for the one task that reads frames."""

    def __init__(self, muxed: SteadyYamux, session: SecureSession, noise: NoiseTransportReadWriter) -> None:
        self._muxed = muxed
        self._decrypt = noise.decrypt
        self._receive = _receiver_of(noise.read_writer.read_write_closer)
        self._sealed = bytearray()
        """Received, and not yet decrypted: the beginning of a Noise message."""
        self._plain = bytearray(session._drain(None))
        """Decrypted, and not yet handed out."""
        self._body = 0
        """Of a frame whose header was handed out, what is still to be."""

    async def read(self, n: int | None = None) -> bytes:
        """The next `n` bytes. Frames that took the short way are not among them.

        Raises:
            IncompleteReadError: the connection has ended.
        """
        wanted = _RECEIVE_BYTES if n is None else n
        while True:
            if not self._body:
                self._take_plain_frames()
            if len(self._plain) >= wanted or (n is None and self._plain):
                return self._hand_out(wanted)
            await self._fill()

    def _hand_out(self, size: int) -> bytes:
        data = bytes(self._plain[:size])
        del self._plain[:size]
        if self._body:
            self._body = max(0, self._body - len(data))
        elif len(data) == HEADER_SIZE:
            _, kind, _, _, length = _HEADER.unpack(data)
            self._body = length if kind == TYPE_DATA else 0
        return data

    async def _fill(self) -> None:
        """At least one Noise message more."""
        sealed = self._sealed
        while len(sealed) < 2 or len(sealed) < 2 + int.from_bytes(sealed[:2], "big"):
            data = await self._receive(_RECEIVE_BYTES)
            if not data:
                raise IncompleteReadError("the connection has ended", received_bytes=len(sealed) + len(self._plain))
            sealed += data
        start = 0
        while len(sealed) >= start + 2:
            end = start + 2 + int.from_bytes(sealed[start : start + 2], "big")
            if len(sealed) < end:
                break
            self._plain += self._decrypt(bytes(sealed[start + 2 : end]))
            start = end
        del sealed[:start]

    def _take_plain_frames(self) -> None:
        """Whole data frames without flags, of open streams with room for them, go where they belong."""
        muxed, plain = self._muxed, self._plain
        start = 0
        if muxed.streams_lock.locked():
            return
        while len(plain) >= start + HEADER_SIZE:
            version, kind, flags, stream_id, length = _HEADER.unpack_from(plain, start)
            end = start + HEADER_SIZE + length
            stream = muxed.streams.get(stream_id)
            if version or kind != TYPE_DATA or flags or stream is None or len(plain) < end or length > stream.recv_window:
                break
            buffer, event = muxed.stream_buffers.get(stream_id), muxed.stream_events.get(stream_id)
            if buffer is None or event is None or stream.closed or stream.recv_closed:
                break
            muxed.count(bytes(plain[start : start + HEADER_SIZE]))
            buffer += memoryview(plain)[start + HEADER_SIZE : end]
            stream.recv_window -= length
            event.set()
            start = end
        if start:
            del plain[:start]


def _tcp_under(raw: Any) -> trio.SocketStream | None:
    inner = raw.stream if isinstance(raw, RawConnection) else None
    return inner.stream if isinstance(inner, TrioTCPStream) else None


def _sender_of(raw: Any) -> Callable[[bytes], Awaitable[None]]:
    """The shortest way into a connection, for who has it alone."""
    socket = _tcp_under(raw)
    if socket is None:
        return raw.write  # type: ignore[no-any-return]

    async def send(data: bytes) -> None:
        try:
            await socket.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"TCP connection closed: {error}", transport="tcp") from error

    return send


def _receiver_of(raw: Any) -> Callable[[int], Awaitable[bytes]]:
    """The shortest way to the bytes of a connection."""
    socket = _tcp_under(raw)
    if socket is None:
        return raw.read  # type: ignore[no-any-return]

    async def receive(size: int) -> bytes:
        try:
            return bytes(await socket.receive_some(size))
        except trio.BrokenResourceError as error:
            raise ConnectionClosedError(f"TCP connection reset by remote peer: {error}", transport="tcp") from error
        except trio.ClosedResourceError:
            return b""

    return receive


class SwiftStream:
    """A libp2p stream over Yamux, for one task that reads and one that writes."""

    def __init__(self, stream: Any) -> None:
        self._slow = stream
        self._muxed = stream.muxed_stream
        self._connection = stream.muxed_stream.conn
        self._id: int = stream.muxed_stream.stream_id

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes, at most `n`; raises at the end."""
        connection, muxed = self._connection, self._muxed
        while True:
            buffer, event = connection.stream_buffers.get(self._id), connection.stream_events.get(self._id)
            unusual = buffer is None or event is None or muxed.recv_closed or muxed.closed or muxed.reset_received
            if unusual or connection.event_shutting_down.is_set() or connection.streams_lock.locked() or not self._is_open():
                return bytes(await self._slow.read(n))
            if buffer:
                data = bytes(buffer if n is None else buffer[:n])
                del buffer[: len(data)]
                await muxed._auto_tune_and_send_window_update(bytes_read=len(data))
                return data
            if event.is_set():
                event = connection.stream_events[self._id] = trio.Event()
            await event.wait()

    async def write(self, data: bytes) -> None:
        """All of it."""
        muxed = self._muxed
        unusual = muxed.send_closed or muxed.closed or muxed.window_lock.locked() or not self._is_open()
        if unusual or not data or len(data) > muxed.send_window:
            await self._slow.write(data)
            return
        muxed.send_window -= len(data)
        try:
            await self._connection._write_frame(_HEADER.pack(0, TYPE_DATA, 0, self._id, len(data)) + data)
        except BaseException:
            muxed.send_closed = True  # a part of it may be gone: nothing sensible can follow
            raise

    def _is_open(self) -> bool:
        return bool(self._slow._state == StreamState.OPEN)

    async def close(self) -> None:
        """No more writes; the other side reads to the end."""
        await self._slow.close()

    async def reset(self) -> None:
        """Drop it, both directions."""
        await self._slow.reset()
