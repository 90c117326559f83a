"""Who is there: dialled until connected, suspected only after a try, gone after the grace."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.discovery import KnownPeer
from sudocode_coordination.core.facts import Notify, Output, Say
from sudocode_coordination.core.io import Admit, Dial, DialFailed, HangUp, PeerConnected, PeerDisconnected
from sudocode_coordination.core.membership import (
    BEAT_PER_PEER_MS,
    COURTESY_MS,
    FIRST_BACKOFF_MS,
    MAX_BACKOFF_MS,
    MAX_DIALS,
    PAUSE_MS,
    REFUSED_MS,
    SILENT_BEATS,
    SUSPECT_MS,
    TURN_MS,
    Membership,
)
from sudocode_coordination.core.wire import Presence
from sudocode_coordination.model import Now, PeerRecord

GRACE = 30_000
BEAT = 15_000
ADDRESSES = ("/ip4/192.0.2.1/tcp/1",)


def record(agent: str) -> PeerRecord:
    return PeerRecord(agent_id=agent, multiaddrs=ADDRESSES, public_key="", capabilities=(), last_seen="", ttl=1)


def known(*, fresh: bool = True, addresses: tuple[str, ...] = ADDRESSES, agents: tuple[str, ...] = ("zoe", "adam")) -> KnownPeer:
    return KnownPeer(addresses=addresses, agents={agent: record(agent) for agent in agents}, fresh=fresh)


class Bench:
    """A membership machine of the peer "m" and its clock."""

    def __init__(self, **config: Any) -> None:
        config = {"gone_grace_ms": GRACE, "heartbeat_interval_ms": BEAT} | config
        self.machine = Membership("m", create_default_config("me", **config), Random(1))
        self.instant = 1_000_000
        self.machine.started(7, self.now)

    @property
    def now(self) -> Now:
        return Now(self.instant, 5_000_000 + self.instant)

    def knows(self, **peers: KnownPeer) -> list[Output]:
        return self.machine.known_changed(peers, self.now)

    def connects(self, peer: str, *, relayed: bool = False) -> list[Output]:
        return self.machine.connected(PeerConnected(peer=peer, address="/x", direction="out", relayed=relayed), self.now)

    def loses(self, peer: str, reason: str = "reset") -> list[Output]:
        return self.machine.disconnected(PeerDisconnected(peer=peer, reason=reason), self.now)

    def fails(self, peer: str, *, answered: bool = False) -> list[Output]:
        return self.machine.dial_failed(DialFailed(peer=peer, reason="refused", answered=answered), self.now)

    def passes(self, ms: int) -> list[Output]:
        """Time passes; everything that is connected answers."""
        end, out = self.instant + ms, list[Output]()
        while (due := self.machine.deadline()) is not None and due <= end:
            assert due >= self.instant
            self.instant = due
            out += self.machine.ticked(self.now, 0)
            for peer in self.machine.connected_peers:
                self.machine.heard(peer, self.now)
        self.instant = end
        return out


def dials(outputs: list[Output]) -> list[str]:
    return [o.peer for o in outputs if isinstance(o, Dial)]


# --- dialling -------------------------------------------------------------------------------------------------------------


def test_a_known_peer_is_let_in_and_dialled_at_all_its_addresses() -> None:
    bench = Bench()
    assert bench.knows(z=known()) == [Admit(peers=("z",)), Dial(peer="z", addresses=ADDRESSES)]
    assert bench.machine.connection("z") == "connecting"
    assert bench.knows(z=known()) == [], "nothing new, nothing to do"


def test_of_two_who_learn_of_each_other_the_one_with_the_higher_id_dials_later() -> None:
    bench = Bench()
    assert dials(bench.knows(a=known())) == []
    assert dials(bench.passes(COURTESY_MS - 1)) == []
    assert dials(bench.passes(1)) == ["a"]


def test_what_fails_is_tried_again_ever_more_rarely_but_for_ever() -> None:
    bench = Bench()
    bench.knows(z=known())
    waits = []
    for _ in range(12):
        bench.fails("z")
        before = bench.instant
        assert bench.machine.connection("z") == "disconnected"
        while not dials(bench.passes(50)):
            assert bench.instant - before < 2 * MAX_BACKOFF_MS
        waits.append(bench.instant - before)
    for number, wait in enumerate(waits):
        base = min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2**number)
        assert 0.8 * base <= wait <= 1.2 * base + 50
    assert bench.machine.longing() == 12


def test_a_crowd_is_dialled_a_few_at_a_time_until_all_are_there() -> None:
    bench = Bench()
    crowd = {f"z{number:02}": known() for number in range(50)}
    under_way = dials(bench.knows(**crowd))
    met = 0
    while under_way:
        assert len(under_way) <= MAX_DIALS
        bench.connects(under_way.pop(0))
        met += 1
        under_way += dials(bench.passes(2 * TURN_MS))
    assert met == len(bench.machine.connected_peers) == 50


def test_dials_that_fail_or_hang_keep_nobody_new_waiting() -> None:
    bench = Bench()
    dead = {f"x{number:02}": known() for number in range(50)}
    tried = dials(bench.knows(**dead))
    for peer in tried:
        bench.fails(peer)
    while len(tried) < 50:
        more = dials(bench.passes(50))
        for peer in more:
            bench.fails(peer)
        tried = sorted({*tried, *more})
    hanging = dials(bench.passes(2 * MAX_BACKOFF_MS))
    assert len(hanging) == MAX_DIALS, "all are due, and a few are tried"
    assert not dials(bench.passes(10_000))
    assert dials(bench.knows(**dead, z=known())) == ["z"]
    for peer in hanging:
        bench.fails(peer)
    assert len(dials(bench.passes(2 * TURN_MS))) == MAX_DIALS


def test_a_peer_that_is_lost_is_dialled_again_soon() -> None:
    bench = Bench()
    bench.knows(z=known())
    bench.connects("z")
    (told,) = bench.loses("z")
    assert isinstance(told, Notify)
    assert (told.type, told.data["reason"]) == ("peer-disconnected", "reset")
    assert dials(bench.passes(FIRST_BACKOFF_MS // 2)) == ["z"]
    assert bench.loses("z") == [], "it is lost once"
    assert bench.loses("nobody") == bench.fails("nobody") == []


def test_a_stale_peer_is_let_in_but_not_dialled() -> None:
    bench = Bench()
    assert bench.knows(z=known(fresh=False)) == [Admit(peers=("z",))]
    assert dials(bench.passes(60_000)) == []
    assert dials(bench.knows(z=known(fresh=True))) == ["z"]


def test_a_new_address_is_tried_at_once() -> None:
    bench = Bench()
    bench.knows(z=known())
    for _ in range(8):
        bench.fails("z")
    moved = ("/ip4/192.0.2.2/tcp/2",)
    assert bench.knows(z=known(addresses=moved)) == [Dial(peer="z", addresses=moved)]


def test_who_is_no_longer_known_is_forgotten_once_it_is_not_connected() -> None:
    bench = Bench()
    bench.knows(z=known(), y=known())
    bench.connects("z")
    assert Admit(peers=()) in bench.knows()
    assert bench.machine.peer("y") is None
    assert bench.machine.connected_peers == {"z"}
    bench.loses("z")
    bench.knows()
    assert bench.machine.peer("z") is None


def test_no_more_peers_than_the_limit_are_let_in_or_dialled() -> None:
    bench = Bench(max_peers=2)
    out = bench.knows(x=known(), y=known(), z=known())
    assert out[0] == Admit(peers=("x", "y"))
    assert dials(out) == ["x", "y"]


def test_while_it_stops_it_dials_nobody() -> None:
    bench = Bench()
    bench.machine.stop()
    assert dials(bench.knows(z=known())) == []


# --- suspecting -----------------------------------------------------------------------------------------------------------


def test_nobody_is_suspected_before_a_try() -> None:
    bench = Bench()
    bench.knows(z=known())
    assert bench.machine.suspected(bench.instant) == set()
    bench.fails("z")
    assert bench.machine.suspected(bench.instant) == set(), "it may not have read of us yet"
    assert bench.machine.view_deadline(bench.instant) == bench.instant + REFUSED_MS
    bench.instant += REFUSED_MS
    assert bench.machine.suspected(bench.instant) == {"z"}
    bench.connects("z")
    assert bench.machine.suspected(bench.instant) == set()


def test_who_is_there_and_refuses_is_suspected_no_sooner_than_who_was_not_tried() -> None:
    bench = Bench()
    bench.knows(z=known())
    bench.fails("z", answered=True)
    bench.instant += SUSPECT_MS - 1
    assert bench.machine.suspected(bench.instant) == set()
    assert bench.machine.view_deadline(bench.instant) == bench.instant + 1
    bench.fails("z")
    assert bench.machine.suspected(bench.instant) == {"z"}, "it was there, and is not any more"
    bench.fails("z", answered=True)
    assert bench.machine.suspected(bench.instant) == set()
    bench.instant += 1
    assert bench.machine.suspected(bench.instant) == {"z"}


def test_a_dial_that_has_no_end_is_one_that_failed() -> None:
    bench = Bench()
    bench.knows(z=known())
    bench.passes(SUSPECT_MS - 1)
    assert bench.machine.view_deadline(bench.instant) == bench.instant + 1
    assert bench.machine.suspected(bench.instant) == set()
    bench.passes(1)
    assert bench.machine.suspected(bench.instant) == {"z"}


def test_who_is_away_for_longer_than_the_grace_is_gone() -> None:
    bench = Bench()
    bench.knows(z=known())
    bench.connects("z")
    bench.passes(100_000)
    bench.loses("z")
    away = bench.instant
    bench.instant = away + GRACE - 1
    assert bench.machine.gone(bench.instant) == set()
    assert bench.machine.view_deadline(bench.instant) == away + GRACE
    bench.instant += 1
    assert bench.machine.gone(bench.instant) == {"z"}
    assert bench.machine.view_deadline(bench.instant) is None


def test_who_said_goodbye_is_gone_at_once_and_not_dialled() -> None:
    bench = Bench()
    bench.knows(z=known())
    bench.connects("z")
    bench.machine.said_goodbye("z")
    bench.machine.said_goodbye("nobody")
    assert bench.machine.gone(bench.instant) == set(), "it is still connected"
    bench.loses("z")
    assert bench.machine.gone(bench.instant) == bench.machine.suspected(bench.instant) == {"z"}
    assert dials(bench.passes(60_000)) == []
    assert dials(bench.knows(z=known(addresses=("/new",)))) == ["z"], "the branch tells of it anew"


def test_after_a_pause_nobody_is_suspected_before_it_was_tried_anew() -> None:
    bench = Bench()
    bench.knows(y=known(), z=known())
    bench.connects("y")
    bench.fails("z")
    bench.instant += 3_600_000
    out = bench.machine.ticked(bench.now, late_ms=PAUSE_MS + 1)
    assert not [o for o in out if isinstance(o, HangUp)], "y could not be heard while nobody listened"
    assert dials(out) == ["z"]
    assert bench.machine.suspected(bench.instant) == set()
    bench.fails("z")
    bench.instant += REFUSED_MS
    assert bench.machine.suspected(bench.instant) == {"z"}
    assert bench.machine.gone(bench.instant) == set()


# --- beating --------------------------------------------------------------------------------------------------------------


def test_a_silent_peer_is_hung_up_on() -> None:
    bench = Bench()
    bench.knows(z=known())
    bench.connects("z")
    silent = bench.instant + SILENT_BEATS * BEAT
    while bench.instant < silent:
        due = bench.machine.deadline()
        assert due is not None
        bench.instant = due
        out = bench.machine.ticked(bench.now, 0)
        assert (HangUp(peer="z", reason="silent") in out) == (bench.instant >= silent)


def test_beats_go_to_everyone_connected_and_are_told() -> None:
    bench = Bench()
    bench.connects("y")
    bench.connects("z")
    out = bench.passes(BEAT * 13 // 10)
    assert [o.peer for o in out if isinstance(o, Say)] == ["y", "z"]
    assert [o.data for o in out if isinstance(o, Notify)] == [{"count": 1}]
    (beat, _) = [o.message for o in out if isinstance(o, Say)]
    assert isinstance(beat, Presence)
    assert (beat.incarnation, beat.count) == (7, 1)


@pytest.mark.parametrize(("crowd", "interval"), [(1, BEAT), (60, 60 * BEAT_PER_PEER_MS)])
def test_in_a_crowd_beats_are_rarer(crowd: int, interval: int) -> None:
    bench = Bench()
    for number in range(crowd):
        bench.connects(f"p{number:02}")
    bench.passes(2 * BEAT)
    beats = [o for o in bench.passes(20 * interval) if isinstance(o, Notify)]
    assert 16 <= len(beats) <= 25


def test_a_ping_is_answered_and_a_pong_is_a_round_trip() -> None:
    bench = Bench()
    (ping, told) = bench.connects("z")
    assert isinstance(ping, Say)
    assert isinstance(ping.message, Presence)
    assert isinstance(told, Notify)
    bench.instant += 42
    (pong,) = bench.machine.presence("z", Presence(incarnation=1, count=1, ping=99), bench.now)
    assert isinstance(pong, Say)
    assert isinstance(pong.message, Presence)
    assert pong.message.pong == 99
    assert bench.machine.presence("z", Presence(incarnation=1, count=1, pong=ping.message.ping), bench.now) == []
    peer = bench.machine.peer("z")
    assert peer is not None
    assert peer.latency_ms == 42.0
    bench.machine.presence("z", Presence(incarnation=1, count=1, pong=bench.instant + 9_999), bench.now)
    assert peer.latency_ms == 0.0, "a pong from the future measures nothing"
    assert bench.machine.presence("nobody", Presence(incarnation=1, count=1), bench.now) == []


def test_a_connection_is_told_with_the_agents_behind_it() -> None:
    bench = Bench()
    bench.knows(z=known())
    (_, told) = bench.connects("z", relayed=True)
    assert isinstance(told, Notify)
    assert (told.type, told.agent_id) == ("peer-connected", "adam")
    assert told.data == {"peerId": "z", "agentIds": ["adam", "zoe"], "address": "/x"}
    assert bench.machine.connection("z") == "relayed"
    (_, told) = bench.connects("stranger")
    assert isinstance(told, Notify)
    assert told.agent_id == "stranger"
    assert (bench.machine.connection("stranger"), bench.machine.connection("nobody")) == ("direct", "disconnected")
