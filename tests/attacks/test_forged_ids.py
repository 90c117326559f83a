"""Mallory speaks in the name of others. Whoever tries it on a connection is dropped; what comes by gossip is dropped alone,
for nobody knows who made it up."""

from __future__ import annotations

import msgspec
import pytest
from tests.attacks.siege import MALLORY, Siege
from tests.core.feeds import Pen, identity

from sudocode_coordination.api.requests import AcquireLease, ListLeases
from sudocode_coordination.core.feed import encode_envelope
from sudocode_coordination.core.sync import SYNC_TOPIC
from sudocode_coordination.core.wire import (
    Claim,
    ClaimBody,
    End,
    Envelopes,
    Granted,
    RecordOffer,
    StrictAcquire,
    StrictAsk,
    StrictRelease,
    StrictRenew,
    WireMessage,
)
from sudocode_coordination.model import Resource

FILE = (Resource("file", "src/a.py"),)


def body(claim: str, agent: str = "ben") -> ClaimBody:
    return ClaimBody(claim, agent, FILE, "exclusive", 9, 1, 60_000)


BEN = identity("ben").peer_id
FORGERIES: dict[str, WireMessage] = {
    "a claim of ben's": Claim(claim=body(f"{BEN}.1.1"), round=1, hold_ms=60_000, granted=True, grade="quorum"),
    "a claim of nobody's": Claim(claim=body("no id at all"), round=1, hold_ms=60_000),
    "a claim of an incarnation that is no number": Claim(claim=body(f"{MALLORY.peer_id}.x.1"), round=1, hold_ms=60_000),
    "the end of a claim of ben's": End(id=f"{BEN}.1.1", reason="released"),
    "a strict lease for ben": StrictAsk(op=StrictAcquire(body(f"{BEN}.1.1"), 1)),
    "a renewal of ben's strict leases": StrictAsk(op=StrictRenew(f"{MALLORY.peer_id}.1.op1", (f"{BEN}.1.1",))),
    "a release of ben's strict leases": StrictAsk(op=StrictRelease(f"{MALLORY.peer_id}.1.op1", (f"{BEN}.1.1",))),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_who_speaks_for_another_is_dropped_and_coord_peers_says_why(name: str) -> None:
    siege = Siege()
    leases = siege.asks("ann", ListLeases(everyone=True))
    siege.says(FORGERIES[name])
    assert siege.is_out()
    assert "another peer" in siege.reason
    assert siege.asks("ann", ListLeases(everyone=True)) == leases
    siege.is_unharmed()


def test_the_lease_that_mallory_says_has_ended_is_held() -> None:
    siege = Siege()
    held = siege.asks("ben", AcquireLease(resources=FILE), within_ms=15_000).lease
    siege.says(Granted(id=held.claim_id, grade="provisional"))  # not mallory's to say: nothing comes of it
    siege.says(End(id=held.claim_id, reason="released"))
    assert [(lease.agent_id, lease.grade) for lease in siege.asks("ann", ListLeases(everyone=True))] == [("ben", held.grade)]
    denied = siege.asks("ann", AcquireLease(resources=FILE), within_ms=15_000)
    assert [holder.agent_id for holder in denied.holders] == ["ben"]


def test_an_envelope_that_its_owner_has_not_signed_drops_who_passes_it_on() -> None:
    siege, pen = Siege(), Pen("mallory")
    forged = msgspec.structs.replace(pen.write({("activeWork", "ben"): {"status": "on holiday"}}), owner=BEN, epoch=2**42)
    siege.says(Envelopes(envelopes=(forged,)))
    assert siege.is_out()
    assert "has not signed" in siege.reason
    assert siege.ann.node.sync.document.get("activeWork", BEN, "ben") is None
    siege.is_unharmed()


def test_an_altered_envelope_is_forged_too() -> None:
    siege, pen = Siege(), Pen("carol")
    sound = pen.write({("activeWork", "carol"): {"status": "fine"}})
    siege.says(Envelopes(envelopes=(msgspec.structs.replace(sound, update=sound.update + b"\0"),)))
    assert siege.is_out()
    siege.is_unharmed()


def test_a_forged_envelope_in_gossip_is_dropped_and_nobody_with_it() -> None:
    siege, pen = Siege(), Pen("mallory")
    forged = msgspec.structs.replace(pen.write({("activeWork", "ben"): 1}), owner=BEN, epoch=2**42)
    for _ in range(50):
        siege.gossips(SYNC_TOPIC, encode_envelope(forged))
    assert siege.mallory in siege.ann.links
    assert siege.ann.node.sync.store.problems() == ["?: an envelope with a wrong signature (50 times)"]  # one line, whoever it was
    siege.is_unharmed()


def test_records_of_others_are_published_only_as_their_owners_signed_them() -> None:
    siege = Siege()
    real = siege.record_of("ben", wall_ms=siege.now.wall_ms + 60_000)
    forged = real.replace(b'"code"', b'"root"')
    stranger = siege.record_of("somebody", wall_ms=siege.now.wall_ms + 60_000)
    siege.says(RecordOffer(records=(forged, stranger, b"{}", b"", b"\xff" * 100, b"[" * 10_000)))
    siege.advance(1_000_000)
    assert "agent-somebody.json" not in siege.branch
    assert b"root" not in siege.branch["agent-ben.json"]
    siege.is_unharmed()


def test_one_peer_does_not_fill_the_branch_by_way_of_another() -> None:
    siege = Siege()
    many = [siege.record_of("mallory", agent_id=f"m{n}", wall_ms=siege.now.wall_ms + 1) for n in range(1_200)]
    for start in range(0, len(many), 200):
        siege.says(RecordOffer(records=tuple(many[start : start + 200])))
    offers = siege.ann.node.discovery._offers.times()
    assert len(offers) == 500
    siege.is_unharmed()
