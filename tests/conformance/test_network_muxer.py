"""Many streams share a connection, at a relay those of many peers: none of them may end it for the others."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from tests.conformance.network_attacker import run_real, swarm_of, with_and_without
from tests.conformance.network_bench import Node, RealBench
from tests.conformance.test_network import gossip_until_heard

from sudocode_coordination.adapters import libp2p_swift, libp2p_yamux
from sudocode_coordination.adapters.libp2p_streams import drop, open_stream
from sudocode_coordination.core.io import PeerDisconnected

NOTHING = struct.pack("!BBHII", 0, 1, 0, 1_000_001, 0)
"""A window update of 0 bytes for a stream that does not exist."""


def muxer_of(bench: RealBench, node: Node, other: Node) -> Any:
    [connection] = swarm_of(bench, node).get_connections(ID.from_base58(other.peer_id))
    return connection.muxed_conn


@with_and_without
def test_a_write_that_is_cancelled_ends_no_connection(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: a number of Noise is used up, or half a frame written, and the other side can read nothing any more."""
    if not closed:
        monkeypatch.setattr(libp2p_swift, "SwiftYamux", Yamux)

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        await bench.connect(ann, bob)
        muxer = muxer_of(bench, ann, bob)
        begun, go_on = trio.Event(), trio.Event()
        where, name = (muxer, "_write") if closed else (muxer.secured_conn, "write")
        write = getattr(where, name)

        async def slowly(data: bytes) -> None:
            if not closed:
                muxer.secured_conn.conn.encrypt(data)  # as the first thing that a write does
            begun.set()
            await go_on.wait()
            await write(data)

        with monkeypatch.context() as patched:
            patched.setattr(where, name, slowly)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(muxer._write_frame, NOTHING)
                await begun.wait()
                nursery.cancel_scope.cancel()
                go_on.set()
        if closed:
            await bench.settle()
            assert not ann.of(PeerDisconnected)
            assert not bob.of(PeerDisconnected)
        else:
            ann.send(bob, b"anything")
            await bench.until(lambda: bob.of(PeerDisconnected))

    run_real(test)


def test_a_frame_that_is_never_taken_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever is cancelled would wait for it."""
    monkeypatch.setattr(libp2p_yamux, "_WRITE_SECONDS", 0.2)

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        await bench.connect(ann, bob)
        muxer = muxer_of(bench, ann, bob)

        begun = trio.Event()

        async def never(_: bytes) -> None:
            begun.set()
            await trio.sleep_forever()

        monkeypatch.setattr(muxer, "_write", never)
        with contextlib.suppress(Exception):  # somebody else of the connection may have been first, and be told instead
            async with trio.open_nursery() as nursery:
                nursery.start_soon(muxer._write_frame, NOTHING)
                await begun.wait()
                nursery.cancel_scope.cancel()
        await bench.until(lambda: ann.of(PeerDisconnected) and bob.of(PeerDisconnected))

    run_real(test)


def test_a_stream_that_is_given_up_leaves_the_others_alone() -> None:
    """As when one of two dials through the same relay has won."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        await bench.connect(ann, bob)
        [connection] = swarm_of(bench, ann).get_connections(ID.from_base58(bob.peer_id))
        muxer = muxer_of(bench, ann, bob)
        await gossip_until_heard(bench, ann, bob)  # from here on no other stream is opened

        def left() -> tuple[int, int]:
            """Of those that were closed, what was not read stays for a minute."""
            return sum(not stream.closed for stream in muxer.streams.values()), muxer.stream_backlog_semaphore.value

        before = left()
        for steps in range(40):

            async def open_and_use() -> None:
                stream = await open_stream(connection, "/ipfs/ping/1.0.0")  # type: ignore[arg-type]
                try:
                    while True:
                        await stream.write(bytes(32))
                        await stream.read(32)
                finally:
                    await drop(stream)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_and_use)
                for _ in range(steps):
                    await trio.sleep(0)
                nursery.cancel_scope.cancel()
        await bench.settle()
        assert not ann.of(PeerDisconnected)
        assert left() == before

    run_real(test)
