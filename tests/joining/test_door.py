"""Real daemons: who is not on the branch is refused before the muxer, in both directions; removing a record shuts a peer out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from tests.conformance.network_attacker import plain_host, seed_of
from tests.e2e.clones import Clone, connected, repository, wait_for
from tests.joining.branch import SOON, Maintainer, findings, peer_id, reaches

from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.core.records import build_record, format_wall

pytestmark = pytest.mark.usefixtures("warm_daemons")


class Wiretap:
    """What a stranger's host hears on its connections once Noise is done: the muxer's negotiation would be the first of it."""

    def __init__(self) -> None:
        self.handshakes = 0
        """That Noise has come through."""
        self.broken_off = trio.Event()
        """One that it has not."""
        self.heard = b""

    def on(self, host: Any) -> None:
        upgrader = host.get_network().upgrader
        secure = upgrader.upgrade_security

        async def upgrade_security(*given: Any, **named: Any) -> Any:
            try:
                secured = await secure(*given, **named)
            except BaseException:
                self.broken_off.set()
                raise
            self.handshakes += 1
            read = secured.read

            async def tapped(*arguments: Any) -> bytes:
                data: bytes = await read(*arguments)
                self.heard += data
                return data

            secured.read = tapped
            return secured

        upgrader.upgrade_security = upgrade_security


@asynccontextmanager
async def stranger() -> AsyncIterator[tuple[Any, Wiretap]]:
    async with plain_host("mallory") as host:
        tap = Wiretap()
        tap.on(host)
        yield host, tap


def test_a_stranger_is_refused_before_the_muxer_and_told_of() -> None:
    with repository("alice") as (alice,):
        status = alice.start(*SOON)
        mallory = Identity(seed_of("mallory")).peer_id

        async def knock() -> Wiretap:
            async with stranger() as (host, tap):
                try:
                    with trio.fail_after(20):
                        await host.get_network().dial_addr(Multiaddr(status["addresses"][0]), ID.from_base58(status["peerId"]))
                except Exception:  # noqa: BLE001 - it may fail in any way, as long as it fails
                    return tap
                raise AssertionError("a connection came about")

        tap = trio.run(knock)
        assert tap.handshakes, "Noise was done, so the daemon knew who it is"
        assert tap.heard == b"", "and said nothing more, not even which muxer it speaks"
        [refused] = wait_for("the refusal is told", lambda: findings(alice, "refused"))
        assert mallory in refused["message"]
        assert "/ip4/127.0.0.1/tcp/" in refused["message"]
        assert "no valid record on the branch" in refused["message"]
        assert refused["hint"]
        assert alice.peers() == {"alice": "self"}


def test_a_stranger_that_is_dialled_is_refused_before_the_muxer() -> None:
    with repository("alice") as (alice,):
        alice.start(*SOON)
        maintainer = Maintainer(alice.folder.parent)
        bob = Identity(seed_of("bob"))

        async def wait_to_be_dialled() -> Wiretap:
            async with stranger() as (host, tap):
                address = str(host.get_transport_addrs()[0])
                record = build_record(
                    bob, agent_id="bob", multiaddrs=(address,), capabilities=(), wall_ms=4_000_000_000_000, ttl_ms=900_000
                )
                assert format_wall(4_000_000_000_000) in record.decode()
                await trio.to_thread.run_sync(maintainer.change, {"agent-bob.json": record})
                with trio.fail_after(30):
                    await tap.broken_off.wait()
                return tap

        tap = trio.run(wait_to_be_dialled)
        assert (tap.handshakes, tap.heard) == (0, b""), "the daemon saw that it is not bob, and left within Noise"
        assert alice.peers()["bob"] in ("connecting", "disconnected")


def shut_out(alice: Clone, bob: Clone, carol: Clone) -> tuple[Maintainer, Path]:
    """Bob's record is removed, and bob may not push any more, until the file that is handed back is removed."""
    for clone in (alice, bob, carol):
        clone.start(*SOON)
    wait_for("all are connected", lambda: connected(alice, bob, carol), 30)
    maintainer = Maintainer(alice.folder.parent)
    mark = maintainer.refuse_record("agent-bob.json")
    maintainer.change({"agent-bob.json": None})
    wait_for("bob is out", lambda: reaches(alice, "carol") and reaches(carol, "alice"), 30)
    return maintainer, mark


def test_a_record_that_is_removed_shuts_its_connected_peer_out() -> None:
    with repository("alice", "bob", "carol") as (alice, bob, carol):
        maintainer, _ = shut_out(alice, bob, carol)
        bob_id = peer_id(bob)
        # Bob knocks, and would offer its record to whoever publishes.
        told = wait_for("bob was refused", lambda: [f for f in findings(alice, "refused") if bob_id in f["message"]], 30)
        assert "no valid record on the branch" in told[0]["message"]
        assert sorted(maintainer.files()) == ["agent-alice.json", "agent-carol.json"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_who_was_shut_out_tells_why_is_put_back_by_nobody_and_comes_back_by_itself() -> None:
    with repository("alice", "bob", "carol") as (alice, bob, carol):
        maintainer, mark = shut_out(alice, bob, carol)
        wait_for("bob tells why", lambda: "publishing" in (bob.json("status")["remote"]["reason"] or ""), 180)
        assert sorted(maintainer.files()) == ["agent-alice.json", "agent-carol.json"]
        assert reaches(alice, "carol")
        mark.unlink()
        wait_for("bob is back", lambda: connected(alice, bob, carol), 240)
        assert not [f for f in findings(alice, "refused") if peer_id(bob) in f["message"]]
