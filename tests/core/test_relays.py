"""Relays: which are used, which lead to a peer, and how a relayed connection becomes a direct one."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.test_membership import BEAT, GRACE, Bench, known

from sudocode_coordination.config import config_from_mapping, create_default_config
from sudocode_coordination.core.discovery import KnownPeer
from sudocode_coordination.core.facts import Notify, Output, Say
from sudocode_coordination.core.io import Dial, PeerMoved, RelayAt, Upgrade, UpgradeFailed, UseRelays
from sudocode_coordination.core.membership import (
    MAX_UPGRADE_BACKOFF_MS,
    RELAY_PATIENCE_MS,
    UPGRADE_BACKOFF_MS,
    UPGRADE_MS,
)
from sudocode_coordination.core.relays import MAX_WAYS, USED, Relays
from sudocode_coordination.errors import ConfigError

PEERS = ("12D3KooWa", "12D3KooWb", "12D3KooWc", "12D3KooWd")
A, B, C, D = PEERS


def relay_at(peer: str, *, fresh: bool = True, offers: bool = True) -> KnownPeer:
    return msgspec.structs.replace(known(fresh=fresh, addresses=(f"/dns/{peer}/tcp/1", f"/dns/{peer}/tcp/1/ws")), relay=offers)


def circuit(peer: str) -> str:
    return f"/dns/{peer}/tcp/1/p2p/{peer}/p2p-circuit"


def used(outputs: list[Output]) -> list[tuple[str, ...]]:
    return [tuple(relay.peer for relay in output.relays) for output in outputs if isinstance(output, UseRelays)]


def upgrades(outputs: list[Output]) -> list[str]:
    return [output.peer for output in outputs if isinstance(output, Upgrade)]


# --- which are used -------------------------------------------------------------------------------------------------------


def test_two_of_those_who_offer_it_are_used_and_kept_while_they_do() -> None:
    relays = Relays("m", create_default_config("me"))

    def chosen(known: dict[str, KnownPeer], gone: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        relays.known_changed(known)
        return used(relays.choose(gone))

    assert chosen({A: relay_at(A, offers=False)}) == []
    assert chosen({B: relay_at(B), C: relay_at(C)}) == [(B, C)]
    everybody = {peer: relay_at(peer) for peer in PEERS}
    assert chosen(everybody) == [], "those in use stay"
    assert chosen(everybody | {C: relay_at(C, fresh=False)}) == [(B, A)]
    assert chosen(everybody, gone=(B, A)) == [(C, D)], "who is gone is of no use"
    assert chosen({B: relay_at(B)}, gone=(B,)) == [(B,)], "better than none"
    assert chosen({}) == [()]
    assert USED == 2


def test_what_is_configured_goes_before_what_is_offered() -> None:
    relays = Relays(
        "m", create_default_config("me", relays=(f"/ip4/192.0.2.1/tcp/1/p2p/{D}", f"/ip6/2001:db8::1/tcp/1/ws/p2p/{D}"))
    )
    relays.known_changed({B: relay_at(B)})
    [output] = relays.choose(())
    assert output == UseRelays(relays=(RelayAt(peer=D, addresses=("/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/1/ws")),))
    assert relays.ways("z", ()) == (f"/ip4/192.0.2.1/tcp/1/p2p/{D}/p2p-circuit", circuit(B)), "the other may use what is offered"


def test_who_relays_for_others_needs_no_relay() -> None:
    relays = Relays("m", create_default_config("me", relay_service=True))
    relays.known_changed({B: relay_at(B)})
    assert relays.choose(()) == []
    assert relays.ways("z", ()) == (circuit(B),), "but may reach others by one"


def test_a_relay_that_is_lost_for_long_is_replaced_with_a_beat() -> None:
    bench = Bench()
    assert used(bench.knows(**{A: relay_at(A), B: relay_at(B), C: relay_at(C)})) == [(A, B)]
    for peer in (A, B, C):
        bench.connects(peer)
    bench.loses(A)
    bench.fails(A)
    assert used(bench.passes(GRACE + 2 * BEAT)) == [(B, C)]


@pytest.mark.parametrize("text", ["/ip4/192.0.2.1/tcp/1", "12D3KooWa", "/ip4/192.0.2.1/udp/1/quic-v1/p2p/12D3KooWa", ""])
def test_a_relay_is_configured_with_its_peer_id(text: str) -> None:
    with pytest.raises(ConfigError, match="relays"):
        config_from_mapping({"relays": [text]})


# --- which lead to a peer -------------------------------------------------------------------------------------------------


def test_the_ways_to_a_peer_are_those_it_announces_then_those_that_are_known() -> None:
    relays = Relays("m", create_default_config("me"))
    relays.known_changed({A: relay_at(A), B: relay_at(B)})
    announced = (f"/ip4/192.0.2.9/tcp/9/p2p/{B}/p2p-circuit",)
    assert relays.ways("z", ("/ip4/192.0.2.1/tcp/1", *announced)) == (*announced, circuit(A))
    assert relays.ways(A, ()) == (circuit(B),), "not through itself"
    assert relays.ways("z", ("/ip4/192.0.2.1/tcp/1/p2p/m/p2p-circuit",)) == (circuit(A), circuit(B)), "not through this peer"
    many = tuple(f"/ip4/192.0.2.9/tcp/{port}/p2p/{C}/p2p-circuit" for port in range(1, 30))
    assert len(relays.ways("z", many)) == MAX_WAYS


def test_a_dial_names_direct_addresses_and_relays_apart() -> None:
    bench = Bench()
    dial = bench.knows(z=known(addresses=("/ip4/192.0.2.1/tcp/1", circuit(A))))[-1]
    assert dial == Dial(peer="z", addresses=("/ip4/192.0.2.1/tcp/1",), relayed=(circuit(A),), patience_ms=RELAY_PATIENCE_MS)


# --- from relayed to direct -----------------------------------------------------------------------------------------------


def relayed_bench() -> Bench:
    bench = Bench()
    bench.knows(z=known(addresses=("/ip4/192.0.2.1/tcp/1", circuit(A))))
    bench.connects("z", relayed=True)
    assert bench.machine.connection("z") == "relayed"
    return bench


def test_a_relayed_peer_is_upgraded_soon_and_a_direct_one_is_not() -> None:
    bench = relayed_bench()
    assert bench.passes(UPGRADE_MS - 1) == []
    [upgrade] = bench.passes(1)
    assert upgrade == Upgrade(peer="z", addresses=("/ip4/192.0.2.1/tcp/1",))
    assert upgrades(bench.passes(10 * MAX_UPGRADE_BACKOFF_MS)) == [], "one try at a time"
    direct = Bench()
    direct.knows(z=known())
    direct.connects("z")
    assert upgrades(direct.passes(10 * MAX_UPGRADE_BACKOFF_MS)) == []


def test_it_is_tried_again_ever_more_rarely() -> None:
    bench = relayed_bench()
    bench.passes(UPGRADE_MS)
    gaps = []
    for _ in range(10):
        assert bench.machine.upgraded(UpgradeFailed(peer="z", reason="no way"), bench.now) == []
        began = bench.instant
        while not upgrades(bench.passes(1_000)):
            pass
        gaps.append(bench.instant - began)
    assert 0.8 * UPGRADE_BACKOFF_MS <= gaps[0] <= 1.2 * UPGRADE_BACKOFF_MS + 1_000
    assert gaps[4] > 4 * gaps[0]
    assert max(gaps) <= 1.2 * MAX_UPGRADE_BACKOFF_MS + 1_000


def test_a_move_is_nothing_that_agents_hear_of() -> None:
    bench = relayed_bench()
    outputs = bench.machine.upgraded(PeerMoved(peer="z", address="/ip4/192.0.2.1/tcp/1"), bench.now)
    assert [type(output) for output in outputs] == [Say], "a beat measures the new round trip"
    assert not [output for output in outputs if isinstance(output, Notify)]
    assert bench.machine.connection("z") == "direct"
    peer = bench.machine.peer("z")
    assert peer is not None
    assert peer.address == "/ip4/192.0.2.1/tcp/1"
    assert upgrades(bench.passes(MAX_UPGRADE_BACKOFF_MS)) == []
    assert bench.machine.upgraded(PeerMoved(peer="unknown", address="/x"), bench.now) == []


def test_new_addresses_or_a_pause_make_it_try_at_once() -> None:
    bench = relayed_bench()
    bench.passes(UPGRADE_MS)
    bench.machine.upgraded(UpgradeFailed(peer="z", reason="no way"), bench.now)
    outputs = bench.knows(z=known(addresses=("/ip4/192.0.2.77/tcp/1", circuit(A))))
    assert [o.addresses for o in outputs if isinstance(o, Upgrade)] == [("/ip4/192.0.2.77/tcp/1",)]
    bench.machine.upgraded(UpgradeFailed(peer="z", reason="no way"), bench.now)
    assert upgrades(bench.machine.ticked(bench.now, 60_000)) == ["z"]


def test_no_upgrades_of_who_is_gone_or_while_leaving() -> None:
    bench = relayed_bench()
    bench.loses("z")
    assert bench.machine.upgraded(UpgradeFailed(peer="z", reason="late"), bench.now) == []
    assert upgrades(bench.passes(BEAT)) == []
    leaving = relayed_bench()
    leaving.machine.stop()
    assert upgrades(leaving.passes(BEAT)) == []
    assert leaving.machine.upgraded(UpgradeFailed(peer="z", reason="late"), leaving.now) == []
