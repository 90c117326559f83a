"""A whole node as a parser: whatever arrives from a connected peer, or by gossip, it goes on."""

from __future__ import annotations

from typing import Final

import msgspec
from tests.attacks.siege import MALLORY, Siege, beat
from tests.core.feeds import Pen, identity

from sudocode_coordination.api.requests import AcquireLease, GetFindings, GetStatus, ListLeases, SetWork
from sudocode_coordination.core.beats import PRESENCE_TOPIC
from sudocode_coordination.core.conduct import Conduct, Dropped
from sudocode_coordination.core.facts import Root
from sudocode_coordination.core.feed import encode_envelope
from sudocode_coordination.core.sync import SYNC_TOPIC
from sudocode_coordination.core.wire import (
    Ack,
    Bye,
    Claim,
    ClaimBody,
    Disclosed,
    End,
    Envelopes,
    Head,
    Heads,
    Hello,
    Left,
    Member,
    Members,
    RecordOffer,
    Renew,
    RenewAck,
    Signed,
    StrictAcquire,
    StrictAnswer,
    StrictAsk,
    StrictRelease,
    WireMessage,
    encode_frame,
    encode_message,
    encode_signed,
)
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Now, PeerId, Resource

HISTORY: Final = ("s", "m", [["file", "a"]], "exclusive", 0, "quorum", "2027", "2027", "released", 1, None, "c" * 40, "main")
INPUTS_PER_LIFE: Final = 500
"""Then all begins anew, so that what fails can be found again."""
ROOTS: Final[dict[bytes, Root]] = {
    b"l": "leases", b"h": "leaseHistory", b"w": "activeWork", b"i": "issueUpdates", b"m": "agentMetadata",
}  # fmt: skip
FILE: Final = (Resource("file", "src/a.py"),)


class Forgiving(Conduct):
    """Nobody is kept out: the next input is to be heard, too."""

    def broke(self, peer: PeerId, reason: str, now: Now) -> Dropped:
        """Nothing comes of it."""
        del peer
        return Dropped(reason, now.wall_ms, now.instant, 1, now.instant)


class WholeNode:
    """Runs inputs; the first byte says by which way they come."""

    def __init__(self) -> None:
        self._siege: Siege | None = None
        self._pen = Pen("mallory")
        self._inputs = 0

    def __call__(self, data: bytes) -> None:
        """Raises what the node raises."""
        if self._siege is None or self._inputs >= INPUTS_PER_LIFE:
            self._end()
            self._siege, self._inputs = self._begin(), 0
        self._inputs += 1
        siege, way = self._siege, data[:1]
        if siege.mallory not in siege.ann.links and not siege.connects(hello=self._inputs % 2 == 0):
            siege.looks()
        try:
            if way == b"s":
                siege.gossips(SYNC_TOPIC, data[1:])
            elif way == b"p":
                siege.gossips(PRESENCE_TOPIC, data[1:])
            elif way in ROOTS:
                self._writes(siege, ROOTS[way], data[1:])
            else:
                siege.sends(data[1:])
            siege.advance(50)
        except BaseException:
            self._siege = None
            raise

    def _writes(self, siege: Siege, root: Root, data: bytes) -> None:
        """Mallory's feed says so, properly signed: what is read out of the document is fuzzed, too."""
        try:
            value = msgspec.json.decode(data)
            key = f"1.{self._inputs % 7}" if root in ("leases", "leaseHistory") else f"m|{self._inputs % 7}"
            envelope = self._pen.write({(root, key if root != "activeWork" else "m"): value})
        except (ValueError, UsageError, RecursionError):
            return  # no feed can say that
        siege.says(Envelopes(envelopes=(envelope,)))

    def _begin(self) -> Siege:
        self._pen = Pen("mallory", epoch=9)
        siege = Siege()
        siege.ann.node.membership.conduct = Forgiving()
        siege.asks("ann", SetWork(files=("src/a.py",)))
        siege.asks("ann", AcquireLease(resources=FILE), within_ms=15_000)
        return siege

    def _end(self) -> None:
        if self._siege is not None:
            for request in (GetStatus(), ListLeases(everyone=True), GetFindings()):
                self._siege.asks("ann", request)


def seeds() -> tuple[bytes, ...]:
    """What mallory could say and be within the rules."""
    me, pen = MALLORY.peer_id, Pen("mallory")
    body = ClaimBody(f"{me}.1.1", "mallory", FILE, "exclusive", 3, 5, 60_000, "note")
    told = Disclosed(
        ClaimBody(f"{identity('carol').peer_id}.1.1", "carol", FILE, "shared", 0, 1, 1_000), True, "quorum", 1_000, True, 1
    )
    entry = {
        "agent": "mallory", "resources": [["file", "src/a.py"]], "mode": "exclusive", "priority": 0, "lamport": 1, "ttlMs": 60_000,
        "state": "granted", "grade": "quorum", "since": "2027",
    }  # fmt: skip
    first, second = (
        pen.lease("1.1", entry),
        pen.write({("activeWork", "m"): {"files": ["src/"], "startedAt": "x", "updatedAt": "y"}}),
    )
    messages: tuple[WireMessage, ...] = (
        Hello(incarnation=1, heads=(Head(me, 1, 2), Head("x", 3, 4))),
        Members(members=(Member(me, 60_000, True), Member("x", 1))),
        Heads(heads=(Head(me, 1, 2),), reply=True),
        Envelopes(envelopes=(first, second)),
        beat(count=7),
        Bye(known=(told,)),
        RecordOffer(records=(b"{}",)),
        Claim(claim=body, round=1, hold_ms=60_000),
        Claim(claim=body, round=2, hold_ms=60_000, granted=True, grade="quorum"),
        Ack(id=f"{identity('ann').peer_id}.1800000000001.1", round=1, yields=(body.id,), disclosed=(told,), lamport=4),
        End(id=body.id, reason="released", left=Left("c0ffee" + "0" * 34, "main", "2027", 7)),
        Renew(incarnation=1, round=3, numbers=(1, 2)),
        RenewAck(incarnation=1, round=3, unsettled=(1,)),
        StrictAsk(op=StrictAcquire(body, 1)),
        StrictAsk(op=StrictRelease(f"{me}.1.op2", (body.id,))),
        StrictAnswer(id=body.id, reason="no"),
    )
    payload = encode_message(beat(count=3))
    signed = Signed(me, payload, MALLORY.sign(b"sudocode-coordination/presence/1\0" + payload))
    return (
        *(b"f" + encode_frame((message,)) for message in messages),
        b"f" + encode_frame(messages),
        b"s" + encode_envelope(first),
        b"p" + encode_signed(signed),
        b"l" + msgspec.json.encode(entry),
        b"h" + msgspec.json.encode(HISTORY),
        b"w" + msgspec.json.encode({"files": ["src/"], "issues": ["1"], "startedAt": "x", "updatedAt": "y", "status": "z"}),
        b"i" + msgspec.json.encode({"fields": {"title": {"value": "x", "at": "000001800000000.000001"}}}),
        b"m" + msgspec.json.encode({"capabilities": ["code"]}),
    )
