"""Five bytes that say a thousand million: lengths, counts and clocks that are only promised. Nothing is allocated, counted to or
remembered by a number that the bytes behind it do not bear out."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.attacks.siege import MALLORY, Siege

from sudocode_coordination.api.requests import AcquireLease
from sudocode_coordination.core.feed import decode_envelope
from sudocode_coordination.core.grammar import FeedState, GrammarError, client_id, parse_update
from sudocode_coordination.core.wire import (
    MAX_AGED,
    MAX_HEADS,
    MAX_HOLD_MS,
    MAX_LAMPORT,
    MAX_MEMBERS,
    MAX_RENEWED,
    Ack,
    Claim,
    ClaimBody,
    Head,
    Heads,
    Member,
    Members,
    Renew,
    RenewAck,
    decode_frame,
    decode_message,
    decode_signed,
    encode_frame,
)
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.model import Resource

FILE = (Resource("file", "src/a.py"),)
MEGABYTE = 1 << 20
PROMISES = {
    "array": b"\xdd" + struct.pack(">I", 2**32 - 1),
    "map": b"\xdf" + struct.pack(">I", 2**32 - 1),
    "text": b"\xdb" + struct.pack(">I", 2**32 - 1),
    "bytes": b"\xc6" + struct.pack(">I", 2**32 - 1),
    "extension": b"\xc9" + struct.pack(">I", 2**32 - 1) + b"\1",
}


def allocated(action: Callable[[], Any]) -> int:
    """The most that it held at once, in bytes; it must refuse."""
    tracemalloc.start()
    try:
        with pytest.raises((CoordinationError, GrammarError)):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("decode", [decode_frame, decode_message, decode_signed, decode_envelope])
def test_a_length_that_is_only_promised_allocates_nothing(decode: Callable[[bytes], Any], promise: str) -> None:
    assert allocated(lambda: decode(PROMISES[promise])) < MEGABYTE
    assert allocated(lambda: decode(b"\x91\x82\xa1t\xa5hello\xa5heads" + PROMISES[promise])) < MEGABYTE


@pytest.mark.parametrize("tail", [b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x08", b"\xff" * 7 + b"\x0f"])
def test_a_state_vector_of_five_bytes_allocates_nothing(tail: bytes) -> None:
    """What makes the CRDT library allocate a gigabyte never comes near to it: no update and no state vector of a peer does."""
    client = client_id(MALLORY.peer_id, 1)
    assert allocated(lambda: parse_update(FeedState(), MALLORY.peer_id, client, tail)) < MEGABYTE
    assert allocated(lambda: parse_update(FeedState(), MALLORY.peer_id, client, b"\1" + tail)) < MEGABYTE
    assert allocated(lambda: parse_update(FeedState(), MALLORY.peer_id, client, b"\0\1" + tail)) < MEGABYTE


@pytest.mark.parametrize(
    "message",
    [
        {"t": "heads", "heads": [["p", 1, 1]] * (MAX_HEADS + 1)},
        {"t": "members", "members": [["p", 1]] * (MAX_MEMBERS + 1)},
        {"t": "renew", "incarnation": 1, "round": 1, "numbers": [1] * (MAX_RENEWED + 1)},
        {"t": "renewack", "incarnation": 1, "round": 1, "unsettled": [1] * (MAX_RENEWED + 1)},
        {"t": "presence", "incarnation": 1, "count": 2**53},
        {"t": "presence", "incarnation": -1, "count": 1},
        {"t": "presence", "incarnation": 1, "count": 1, "ping": 2**64 - 1},
        {"t": "heads", "heads": [["p", 2**53, 1]]},
        {"t": "heads", "heads": [["p" * 201, 1, 1]]},
        {"t": "claim", "claim": ["p.1.1", "a", [["file", "x"]], "exclusive", 10**7, 1, 1], "round": 1, "holdMs": 1},
        {"t": "claim", "claim": ["p.1.1", "a", [["file", "x"]], "exclusive", 0, 1, 0], "round": 1, "holdMs": 1},
        {"t": "claim", "claim": ["p.1.1", "a", [["file", "x"]], "exclusive", 0, 1, 1], "round": 1, "holdMs": MAX_HOLD_MS + 1},
        {"t": "claim", "claim": ["p.1.1", "a", [["file", "x"]] * 1_001, "exclusive", 0, 1, 1], "round": 1, "holdMs": 1},
        {"t": "claim", "claim": ["p.1.1", "a", [["file", "x"]], "exclusive", 0, 1, 1, "n" * 4_097], "round": 1, "holdMs": 1},
    ],
    ids=lambda message: f"{message['t']} of {max(len(str(v)) for v in message.values())}",
)
def test_numbers_beyond_a_limit_drop_who_sends_them(message: dict[str, Any]) -> None:
    siege = Siege()
    siege.sends(msgspec.msgpack.encode([message]))
    assert siege.is_out()
    assert "malformed frame" in siege.reason
    siege.is_unharmed()


def test_the_largest_state_vector_is_borne() -> None:
    siege = Siege()
    heads = tuple(Head(f"nobody-{n}", MAX_LAMPORT, MAX_LAMPORT) for n in range(MAX_HEADS))
    for _ in range(3):
        siege.says(Heads(heads=heads, reply=True))
    assert siege.mallory in siege.ann.links
    siege.is_unharmed()


def test_a_clock_driven_to_its_end_still_orders() -> None:
    """Lamport times end at 2^53 - 1: there the names decide, and leases go on."""
    siege = Siege()
    body = ClaimBody(f"{siege.mallory}.1.1", "mallory", (Resource("file", "far/away"),), "exclusive", 0, MAX_LAMPORT, 60_000)
    siege.says(Claim(claim=body, round=MAX_LAMPORT, hold_ms=60_000))
    siege.says(Ack(id=body.id, round=MAX_LAMPORT, lamport=MAX_LAMPORT))
    siege.says(RenewAck(incarnation=MAX_LAMPORT, round=MAX_LAMPORT, unsettled=(MAX_LAMPORT,), lamport=MAX_LAMPORT))
    assert siege.mallory in siege.ann.links
    siege.is_unharmed()


def test_a_waiter_that_says_it_has_waited_for_ages_takes_nothing_over() -> None:
    siege = Siege()
    held = siege.asks("ben", AcquireLease(resources=FILE), within_ms=15_000).lease
    greedy = ClaimBody(f"{siege.mallory}.1.1", "mallory", FILE, "exclusive", 0, 0, 60_000, aged=MAX_AGED)
    siege.says(Claim(claim=greedy, round=1, hold_ms=60_000))
    siege.advance(5_000)
    assert siege.asks("ben", AcquireLease(resources=FILE), within_ms=15_000).lease.claim_id == held.claim_id


def test_renewals_of_twenty_thousand_claims_that_do_not_exist_are_one_answer() -> None:
    siege = Siege()
    siege.heard.clear()
    siege.says(Renew(incarnation=1, round=1, numbers=tuple(range(MAX_RENEWED))))
    (answer,) = (message for message in siege.heard if isinstance(message, RenewAck))
    assert len(answer.unsettled) == MAX_RENEWED
    assert len(encode_frame((answer,))) < MEGABYTE
    siege.is_unharmed()


def test_thousands_of_made_up_members_are_bounded() -> None:
    """Mallory can make ann count peers that do not exist, so that leases are harder to get; but memory does not grow."""
    siege = Siege()
    for start in range(0, 40_000, MAX_MEMBERS):
        siege.says(Members(members=tuple(Member(f"nobody-{start + n}", MAX_HOLD_MS, True) for n in range(MAX_MEMBERS))))
    assert siege.mallory in siege.ann.links
    assert len(siege.ann.node.leases.view.roster) <= 2 * MAX_MEMBERS
