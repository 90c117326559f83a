"""Below the messages: frames that are too large, too slow or too many, hellos that are none, streams without end. On real libp2p
hosts: mallory's own connection ends, ann is told why, and ben's link to ann does not feel it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from tests.conformance.network_attacker import open_sync_stream, read_to_the_end
from tests.conformance.network_bench import Node, RealBench
from tests.conformance.test_network_hostile import hostile

from sudocode_coordination.adapters import libp2p_faults, libp2p_links, links
from sudocode_coordination.adapters.links import OPEN, SYNC_PROTOCOL, Hello, LinkLimits, encode_hello
from sudocode_coordination.core.io import PeerConnected, PeerMisbehaved


def faults_of(ann: Node, host: Any) -> list[PeerMisbehaved]:
    return [told for told in ann.of(PeerMisbehaved) if told.peer == host.get_id().to_base58()]


def is_dropped_for(data: bytes, reason: str, **options: Any) -> None:
    """Mallory opens a sound stream and writes that on it."""

    async def attack(bench: RealBench, ann: Node, host: Any, _: Any) -> None:
        stream = await open_sync_stream(host, ann)
        with suppress(Exception):  # ann may have hung up before all of it is written
            await stream.write(data)
        await bench.until(lambda: faults_of(ann, host))
        (told,) = faults_of(ann, host)
        assert told.keep_out
        assert reason in told.reason

    hostile(attack, **options)


def test_a_frame_that_is_announced_too_large() -> None:
    is_dropped_for(b"\xff\xff\xff\xfe", "announced a frame of 4294967294 bytes")


def test_a_frame_that_comes_byte_by_byte() -> None:
    is_dropped_for(struct.pack(">I", 1_000) + b"s", "did not arrive", limits=LinkLimits(frame=0.5))


def test_keepalives_without_end() -> None:
    is_dropped_for(bytes(4 * 500), "too many frames", limits=LinkLimits(frames=1.0, burst_frames=300.0))


def test_probes_without_end() -> None:
    is_dropped_for(b"\xff" * 4 * 500, "too many frames", limits=LinkLimits(frames=1.0, burst_frames=300.0))


def test_more_bytes_than_anybody_has_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "BURST_BYTES", 50_000)
    monkeypatch.setattr(links, "BYTES_PER_SECOND", 1)
    is_dropped_for((struct.pack(">I", 10_000) + bytes(10_000)) * 40, "sends too much")


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (b"\x00\x00\x00\x16" + b"garbage-garbage-garbag", "not of this protocol"),
        (b"\xff\xff\xff\xff", "hello of 4294967295 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "hello of"),
        (encode_hello(Hello(77, b"attacker", 1)), "hello of kind 77"),
        (encode_hello(Hello(OPEN, b"attacker", 1)).replace(b"SCSY\x01", b"SCSY\x09"), "version 9"),
    ],
    ids=["garbage", "huge", "http", "kind", "version"],
)
def test_a_hello_that_is_none(hello: bytes, reason: str) -> None:
    async def attack(bench: RealBench, ann: Node, host: Any, _: Any) -> None:
        stream = await host.new_stream(ID.from_base58(ann.peer_id), [TProtocol(SYNC_PROTOCOL)])
        await stream.write(hello)
        await read_to_the_end(stream)
        await bench.until(lambda: faults_of(ann, host))
        assert reason in faults_of(ann, host)[0].reason
        assert not [up for up in ann.of(PeerConnected) if up.peer == host.get_id().to_base58()]

    hostile(attack)


def test_a_hello_that_never_comes_is_told_and_may_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(bench: RealBench, ann: Node, host: Any, _: Any) -> None:
        monkeypatch.setattr(libp2p_links, "HELLO_SECONDS", 0.3)
        stream = await host.new_stream(ID.from_base58(ann.peer_id), [TProtocol(SYNC_PROTOCOL)])
        await stream.write(b"\0")
        await bench.until(lambda: faults_of(ann, host))
        (told,) = faults_of(ann, host)
        assert (told.keep_out, "no hello within" in told.reason) == (False, True)
        monkeypatch.undo()
        await open_sync_stream(host, ann)

    hostile(attack)


def test_streams_opened_and_closed_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_faults, "STREAMS_BURST", 12)

    async def attack(bench: RealBench, ann: Node, host: Any, connection: Any) -> None:
        await open_sync_stream(host, ann)
        await bench.until(lambda: host.get_id().to_base58() in ann.connected)
        with trio.move_on_after(10):
            while not faults_of(ann, host):
                stream = await connection.muxed_conn.open_stream()
                await stream.reset()
        assert {told.reason for told in faults_of(ann, host)} == {"opens too many streams: over 5 a second"}
        await bench.until(lambda: host.get_id().to_base58() not in ann.connected)

    hostile(attack)


def test_the_flood_counts_for_whoever_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ben opens as many streams as everybody does, while mallory floods: each connection has its own count."""
    monkeypatch.setattr(libp2p_faults, "STREAMS_BURST", 12)

    async def attack(bench: RealBench, ann: Node, host: Any, connection: Any) -> None:
        del host
        told: Callable[[], list[PeerMisbehaved]] = lambda: ann.of(PeerMisbehaved)  # noqa: E731
        with trio.move_on_after(10):
            while not told():
                stream = await connection.muxed_conn.open_stream()
                await stream.reset()
        ben = next(node for node in bench.nodes if node is not ann)
        assert ben.peer_id not in {one.peer for one in told()}

    hostile(attack)
