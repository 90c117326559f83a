"""Peers that speak libp2p as it comes, or not as they should."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from tests.conformance.network_bench import TCP, Bench, Node, RealBench, run_on

from sudocode_coordination.adapters import libp2p_faults
from sudocode_coordination.adapters.links import ACCEPT, OPEN, SYNC_PROTOCOL, Hello, encode_hello, read_hello

with_and_without = pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
"""With the closing of the fault, and without it."""


def seed_of(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def run_real(test: Callable[[RealBench], Any], *, seconds: float = 60.0, **options: Any) -> None:
    async def on_real(bench: Bench) -> None:
        assert isinstance(bench, RealBench)
        await test(bench)

    run_on("tcp", on_real, seconds=seconds, **options)


@asynccontextmanager
async def plain_host(name: str, **options: Any) -> AsyncIterator[Any]:
    """libp2p as it comes, with the identity of that name."""
    libp2p_faults.quiet_modules()
    listen = [Multiaddr(address) for address in options.pop("listen", TCP)]
    host = new_host(key_pair=create_new_key_pair(seed_of(name)), listen_addrs=listen, **options)
    swarm = host.get_network()
    assert isinstance(swarm, Swarm)
    sockets = libp2p_faults.Sockets()  # its own leaks would be taken for ours
    libp2p_faults.gate_peers(swarm, lambda *_: None, sockets)
    try:
        async with host.run(listen_addrs=listen):
            yield host
            with trio.CancelScope(shield=True):
                await host.close()
    finally:
        sockets.close_all()


@asynccontextmanager
async def attacker(victim: Node) -> AsyncIterator[tuple[Any, Any]]:
    """An admitted peer that speaks libp2p, but not as it should: the host, and its connection to the victim."""
    async with plain_host("mallory") as host:
        connection = await host.get_network().dial_addr(Multiaddr(victim.addresses[0]), ID.from_base58(victim.peer_id))
        yield host, connection


async def open_sync_stream(host: Any, victim: Node, number: int = 1) -> Any:
    stream = await host.new_stream(ID.from_base58(victim.peer_id), [TProtocol(SYNC_PROTOCOL)])
    await stream.write(encode_hello(Hello(OPEN, b"attacker", number)))
    assert (await read_hello(stream)).kind == ACCEPT
    return stream


async def knock(host: Any, victim: Node, *, refused: bool) -> None:
    """Dial and open a sync stream, which must fail or not."""
    try:
        await host.get_network().dial_addr(Multiaddr(victim.addresses[0]), ID.from_base58(victim.peer_id))
        await open_sync_stream(host, victim)
    except Exception:  # noqa: BLE001 - it may fail in any way
        assert refused
    else:
        assert not refused


async def read_to_the_end(stream: Any) -> None:
    """Until the other side has reset or closed it."""
    with trio.fail_after(8):
        while True:
            try:
                if not await stream.read(100):
                    return
            except Exception:  # noqa: BLE001 - as above
                return


def swarm_of(bench: RealBench, node: Node) -> Swarm:
    running = bench.real(node)._links.running
    assert running is not None
    return running.swarm
