"""Yamux as it is used here: many streams on one connection, with faults of py-libp2p 0.8.1 closed that would end or wear out all of
them at once."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.io.utils import read_exactly
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import HEADER_SIZE, YAMUX_HEADER_FORMAT, Yamux

from sudocode_coordination.core.conduct import Bucket

FRAMES_PER_SECOND: Final = 4_000
"""Of any kind on one connection, for long. Pings, window updates and frames of streams that do not exist are seen by nobody above;
each costs 0.01 to 0.03 ms, and more if it was encrypted by itself. Twice what a link may bring (`links.LinkLimits.frames`): a
connection to a relay carries several."""
BURST_FRAMES: Final = 40_000
"""At once: what has piled up while this machine slept, on a connection to a relay too."""
_WRITE_SECONDS: Final = 10.0
"""A frame of 64 KB must have been taken: as on any link (`links.LinkLimits.write`)."""
_CLOSE_SECONDS: Final = 1.0
_WINDOW_BATCH_BYTES: Final = 64 << 10
"""A quarter of Yamux's first window."""
_RTT_SECONDS: Final = 3_600
"""Between two pings by which Yamux measures a connection: windows are made by it, the first one is sent at once. With fifty
connections the usual 30 s are most of what a daemon does at rest."""
_SWEEP_SECONDS: Final = 300.0
"""Between two looks of each connection for what closed streams have left: there are few, and it is usually done every 30 s."""


class SteadyYamux(Yamux):
    """One connection's. `secured_conn._on_flood` is told of a peer that sends too many frames."""

    def __init__(self, secured_conn: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(secured_conn, *arguments, **options)
        self._frames = Bucket(FRAMES_PER_SECOND, BURST_FRAMES, trio.current_time())
        secured_conn._muxer = self

    async def _write_frame(self, data: bytes) -> None:
        """Fault: whoever is cancelled while a frame is written leaves half of it, or a number of Noise that nobody else will ever
        use, and the other side ends the connection: "failed authentication". On a connection to a relay that takes all that goes
        through it. Here a frame that was begun is written to its end."""
        try:
            self._write_lock.acquire_nowait()  # taken the other way it lets all other tasks run first
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _WRITE_SECONDS) as scope:
                await self._write(data)
            if scope.cancelled_caught:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                    await self.secured_conn.close()
                raise RawConnError(f"took nothing for {_WRITE_SECONDS:.0f} s")
        finally:
            self._write_lock.release()

    async def _write(self, data: bytes) -> None:
        await self.secured_conn.write(data)

    async def _read_data_body(self, length: int) -> bytes:
        with trio.fail_after(yamux._yamux_data_read_timeout()):
            return await read_exactly(self.secured_conn, length)

    def count(self, header: bytes) -> None:
        """A frame begins.

        Raises:
            RawConnError: there were too many. The connection ends.
        """
        if self._frames.take(1, trio.current_time()):
            return
        kind = struct.unpack(YAMUX_HEADER_FORMAT, header)[1]
        told = {yamux.TYPE_PING: ", pings now", yamux.TYPE_WINDOW_UPDATE: ", window updates now"}.get(kind, "")
        reason = f"sends too many frames: over {FRAMES_PER_SECOND} a second on a connection{told}"
        on_flood = getattr(self.secured_conn, "_on_flood", None)
        if on_flood is not None:
            on_flood(self.peer_id.to_base58(), reason)
        raise RawConnError(reason)


async def _read_header(reader: Any, size: int) -> bytes:
    """Where Yamux's own loop reads: nothing but headers, the rest is `_read_data_body`."""
    header = await read_exactly(reader, size)
    muxer = getattr(reader, "_muxer", None)
    if muxer is not None and size == HEADER_SIZE:
        muxer.count(header)
    return header


def use_steady_yamux() -> None:
    """In place of libp2p's own, wherever a connection gets a muxer from now on."""
    modules: tuple[Any, Any] = (muxer_multistream, yamux)
    modules[0].Yamux = SteadyYamux  # by that name it is made, whatever the host was given
    modules[1].read_exactly = _read_header
    modules[1].RTT_MEASURE_INTERVAL, modules[1]._STALE_STREAM_SWEEP_INTERVAL = _RTT_SECONDS, _SWEEP_SECONDS


def batch_window_updates(stream: Any) -> None:
    """Fault: Yamux answers every read with a window update, a second frame for each small one. Here they are given in
    batches; the sender's window of 256 KB never comes near to its end by that."""
    muxed = stream.muxed_stream
    update: Callable[..., Awaitable[None]] = muxed._auto_tune_and_send_window_update
    pending = 0

    async def batched(*, bytes_read: int = 0) -> None:
        nonlocal pending
        pending += bytes_read
        if pending >= _WINDOW_BATCH_BYTES:
            given, pending = pending, 0
            await update(bytes_read=given)

    muxed._auto_tune_and_send_window_update = batched
