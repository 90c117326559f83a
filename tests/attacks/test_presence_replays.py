"""Beats that travel by gossip keep the leases of peers in view that can't be reached directly. Mallory has recorded some."""

from __future__ import annotations

import msgspec
import pytest
from tests.attacks.siege import MALLORY, Siege, beat
from tests.core.feeds import Pen, identity

from sudocode_coordination.api.requests import ListLeases
from sudocode_coordination.core.beats import PRESENCE_TOPIC
from sudocode_coordination.core.wire import Claim, ClaimBody, Envelopes, Presence, Signed, encode_message, encode_signed
from sudocode_coordination.model import Resource

TTL_MS = 60_000
DOMAIN = b"sudocode-coordination/presence/1\0"


def signed(name: str, count: int, *, by: str = "", incarnation: int = 1) -> bytes:
    payload = encode_message(Presence(incarnation=incarnation, count=count))
    return encode_signed(Signed(identity(name).peer_id, payload, identity(by or name).sign(DOMAIN + payload)))


def with_a_lease_of_carols() -> Siege:
    """Carol is on the branch, not connected to ann, and holds a lease by the document alone."""
    siege, pen = Siege(), Pen("carol")
    siege.branch["agent-carol.json"] = siege.record_of("carol")
    siege.looks()
    entry = {
        "agent": "carol", "resources": [["file", "c.py"]], "mode": "exclusive", "priority": 0, "lamport": 1, "ttlMs": TTL_MS,
        "state": "granted", "grade": "quorum", "since": "2027-01-15T08:00:00.000Z",
    }  # fmt: skip
    siege.says(Envelopes(envelopes=(pen.lease("1.1", entry),)))
    assert carols(siege)
    return siege


def carols(siege: Siege) -> bool:
    return [lease.agent_id for lease in siege.asks("ann", ListLeases(everyone=True))] == ["carol"]


def test_a_beat_that_is_heard_again_is_no_sign_of_life() -> None:
    siege = with_a_lease_of_carols()
    recorded = [signed("carol", count) for count in (1, 2, 3)]
    for data in recorded:
        siege.gossips(PRESENCE_TOPIC, data)
    for _ in range(8):
        siege.advance(TTL_MS // 6)
        for data in recorded:
            siege.gossips(PRESENCE_TOPIC, data)
    assert not carols(siege)


def test_a_new_beat_is_one() -> None:
    siege = with_a_lease_of_carols()
    for count in range(8):
        siege.advance(TTL_MS // 6)
        siege.gossips(PRESENCE_TOPIC, signed("carol", count))
    assert carols(siege)


@pytest.mark.parametrize(
    "data",
    [
        signed("carol", 2**50, by="mallory"),
        signed("nobody-knows-me", 7),
        encode_signed(Signed("", b"", b"")),
        encode_signed(Signed(identity("carol").peer_id, encode_message(beat(count=9)), b"\0" * 64)),
        encode_signed(Signed(identity("carol").peer_id, b"\xc1" * 1_000, b"\0" * 64)),
        encode_signed(Signed("\x1b[2J", encode_message(beat(count=9)), b"")),
        b"",
        b"\x93" * 1_000,
        msgspec.msgpack.encode([1, 2, 3]),
    ],
    ids=["forged", "stranger", "empty", "no signature", "no message", "no id", "nothing", "nested", "numbers"],
)
def test_a_beat_of_another_can_not_be_made_up(data: bytes) -> None:
    siege = with_a_lease_of_carols()
    siege.gossips(PRESENCE_TOPIC, data)
    for _ in range(8):
        siege.advance(TTL_MS // 6)
        siege.gossips(PRESENCE_TOPIC, data)
    assert not carols(siege)
    # And a forged one from the future does not make carol's own count as old.
    siege.gossips(PRESENCE_TOPIC, signed("carol", 1))
    assert siege.ann.node.beats.latest[identity("carol").peer_id] == (1, 1)


def test_a_signed_beat_is_nothing_on_other_topics_and_other_messages_are_none() -> None:
    siege = with_a_lease_of_carols()
    claim = Claim(
        claim=ClaimBody(f"{MALLORY.peer_id}.1.1", "mallory", (Resource("file", "x"),), "exclusive", 0, 1, 1_000),
        round=1,
        hold_ms=1_000,
    )
    payload = encode_message(claim)
    siege.gossips(PRESENCE_TOPIC, encode_signed(Signed(MALLORY.peer_id, payload, MALLORY.sign(DOMAIN + payload))))
    siege.gossips("sudocode/elsewhere", signed("carol", 1))
    siege.gossips("sudocode/sync", signed("carol", 1))
    assert not siege.ann.node.beats.latest
    assert carols(siege)


def test_a_ping_is_answered_once_and_a_pong_from_the_future_is_no_time() -> None:
    siege = Siege()
    siege.heard.clear()
    siege.says(*(Presence(incarnation=1, count=n, pong=(1 << 53) - 1) for n in range(500)))
    assert siege.heard == []
    latency = next(peer.latency_ms for peer in siege.peers() if peer.peer_id == siege.mallory)
    assert latency == 0.0
    siege.is_unharmed()
