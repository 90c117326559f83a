"""A hostile peer, admitted or not, loses its own connection and no other; and the end is quiet and clean."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from tests.conformance.network_attacker import (
    attacker,
    open_sync_stream,
    read_to_the_end,
    run_real,
    seed_of,
    swarm_of,
)
from tests.conformance.network_bench import TCP, Node, RealBench

from sudocode_coordination.adapters import libp2p_connections, libp2p_faults
from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.adapters.libp2p import Libp2pNetwork
from sudocode_coordination.adapters.links import SYNC_PROTOCOL, LinkLimits
from sudocode_coordination.core.io import PeerConnected, PeerDisconnected

# --- a hostile peer loses its own connection and no other ---------------------------------------------------------------


def hostile(attack: Callable[[RealBench, Node, Any, Any], Any], **options: Any) -> None:
    """Run an attack of an admitted peer; ann's link to bob must not feel it."""

    async def test(bench: RealBench) -> None:
        ann, bob = await bench.pair()
        mallory = bench.make("mallory")
        ann.admit(bob, mallory)
        await bench.connect(bob, ann)
        async with attacker(ann) as (host, connection):
            await attack(bench, ann, host, connection)
            await bench.settle()
            assert bob.connected
            assert [gone for gone in ann.of(PeerDisconnected) if gone.peer == bob.peer_id] == []

    run_real(test, **options)


def ends_the_link(data: bytes, reason: str, **options: Any) -> None:
    async def attack(bench: RealBench, ann: Node, host: Any, _: Any) -> None:
        stream = await open_sync_stream(host, ann)
        await stream.write(data)
        await bench.until(lambda: ann.of(PeerDisconnected))
        assert reason in ann.of(PeerDisconnected)[0].reason

    hostile(attack, **options)


def test_an_announced_frame_that_is_too_large_ends_the_link() -> None:
    ends_the_link(b"\xff\xff\xff\xfe", "allowed")


def test_a_frame_that_never_ends_ends_the_link() -> None:
    ends_the_link(struct.pack(">I", 1_000) + b"slow", "did not arrive", limits=LinkLimits(frame=0.5))


@pytest.mark.parametrize(
    "hello", [b"", b"\x00\x00\x00\x16" + b"garbage-garbage-garbag", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_a_hello_that_is_none_makes_no_link(hello: bytes) -> None:
    async def attack(_: RealBench, ann: Node, host: Any, __: Any) -> None:
        stream = await host.new_stream(ID.from_base58(ann.peer_id), [TProtocol(SYNC_PROTOCOL)])
        await stream.write(hello)
        await read_to_the_end(stream)
        assert not [up for up in ann.of(PeerConnected) if up.peer == host.get_id().to_base58()]

    hostile(attack)


def test_many_streams_and_unknown_protocols_are_reset() -> None:
    async def attack(bench: RealBench, ann: Node, host: Any, connection: Any) -> None:
        for number in range(5):
            with pytest.raises(Exception, match="stream"):
                await host.new_stream(ID.from_base58(ann.peer_id), [TProtocol(f"/unknown/{number}")])
        for _ in range(libp2p_faults.MAX_STREAMS_PER_CONNECTION + 20):
            stream = await connection.muxed_conn.open_stream()
            await stream.write(b"\x13/multistream/1.0.0\n")
        for _ in range(5):
            await bench.settle()

    hostile(attack)


def test_an_endless_frame_is_not_waited_for() -> None:
    """No closing needed: Yamux itself ends a connection that announces more than 16 MB."""

    async def attack(bench: RealBench, ann: Node, host: Any, connection: Any) -> None:
        assert swarm_of(bench, ann).get_connections(host.get_id())
        await connection.muxed_conn._write_frame(struct.pack("!BBHII", 0, 0, 0, 1, 300 << 20))
        await bench.until(lambda: not swarm_of(bench, ann).get_connections(host.get_id()))

    hostile(attack)


def test_a_peer_that_ignores_windows_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: Yamux only logs that more comes than its window allows, and keeps it."""
    monkeypatch.setattr(libp2p_connections, "MAX_BUFFERED_BYTES", 1 << 20)

    async def attack(bench: RealBench, ann: Node, host: Any, connection: Any) -> None:
        async def never_read(_: Any) -> None:
            await trio.sleep_forever()

        running = bench.real(ann)._links.running
        assert running is not None
        running.host.set_stream_handler(TProtocol("/unread/1.0.0"), never_read)
        unread = await host.new_stream(ID.from_base58(ann.peer_id), [TProtocol("/unread/1.0.0")])
        stream = unread.muxed_stream
        frame = struct.pack("!BBHII", 0, 0, 0, stream.stream_id, 60_000) + b"\x7f" * 60_000
        with contextlib.suppress(Exception):
            for _ in range(1_000):
                await connection.muxed_conn._write_frame(frame)
        await bench.until(lambda: not swarm_of(bench, ann).get_connections(host.get_id()))

    hostile(attack)


def test_connections_without_a_sync_stream_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sudocode_coordination.adapters import libp2p_connections

    monkeypatch.setattr(libp2p_connections, "UNUSED_SECONDS", 1.0)

    async def attack(bench: RealBench, ann: Node, host: Any, _: Any) -> None:
        assert swarm_of(bench, ann).get_connections(host.get_id())
        await bench.until(lambda: not swarm_of(bench, ann).get_connections(host.get_id()))

    hostile(attack)


# --- quiet, and clean ---------------------------------------------------------------------------------------------------


def test_importing_and_running_configures_no_logging() -> None:
    """Faults: libp2p logs through the root logger, which installs a stderr handler; it has no handler of its own."""
    program = (
        "import logging, sys, trio\n"
        "from sudocode_coordination.adapters.identity import generate_identity\n"
        "from sudocode_coordination.adapters.libp2p import Libp2pNetwork\n"
        "async def main():\n"
        "    one = Libp2pNetwork(generate_identity(), ('/ip4/127.0.0.1/tcp/0',), seen.append)\n"
        "    with trio.move_on_after(1):\n"
        "        async with trio.open_nursery() as nursery:\n"
        "            nursery.start_soon(one.run)\n"
        "            while not seen: await trio.sleep(0.01)\n"
        "            other = generate_identity().peer_id\n"
        "            one.admit((other,))\n"
        "            one.dial(other, seen[0].addresses + ('/ip4/127.0.0.1/tcp/1', '/ip4/127.0.0.1/tcp/1/ws'))\n"
        "            while len(seen) < 2: await trio.sleep(0.01)\n"
        "seen = []\n"
        "trio.run(main)\n"
        "assert len(seen) == 2, seen\n"
        "assert not logging.getLogger().handlers\n"
    )
    environment = dict(os.environ, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_end_is_clean_whenever_it_comes() -> None:
    """Cancelled at every moment of a start, a dial and a transfer, nothing but the cancellation comes out."""
    for milliseconds in (0, 1, 2, 4, 8, 12, 16, 24, 32, 48):

        async def main(milliseconds: int = milliseconds) -> None:
            seen: dict[str, list[Any]] = {"ann": [], "bob": []}
            nodes = {name: Libp2pNetwork(Identity(seed_of(name)), TCP, seen[name].append) for name in seen}

            async def act() -> None:
                while not seen["ann"] or not seen["bob"]:
                    await trio.sleep(0)
                nodes["ann"].admit((nodes["bob"].peer_id,))
                nodes["bob"].admit((nodes["ann"].peer_id,))
                nodes["ann"].dial(nodes["bob"].peer_id, seen["bob"][0].addresses)
                while len(seen["ann"]) < 2:
                    await trio.sleep(0)
                for _ in range(10):
                    nodes["ann"].send(nodes["bob"].peer_id, bytes(500_000))

            with trio.fail_after(20), trio.move_on_after(milliseconds / 1_000):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(nodes["ann"].run)
                    nursery.start_soon(nodes["bob"].run)
                    nursery.start_soon(act)

        began = time.monotonic()
        trio.run(main)
        assert time.monotonic() - began < 10
