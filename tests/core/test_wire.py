"""What goes over the wire comes back as it was; whatever else comes is refused in one way, or skipped."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.core import wire
from sudocode_coordination.core.wire import (
    KNOWN_TAGS,
    MAX_ENVELOPE_BYTES,
    MAX_FRAME_BYTES,
    MAX_MESSAGES,
    MAX_RENEWED,
    MAX_RESOURCES,
    Ack,
    Bye,
    Claim,
    ClaimBody,
    Disclosed,
    End,
    Envelope,
    Envelopes,
    Granted,
    Head,
    Heads,
    Hello,
    InTheWay,
    Member,
    Members,
    Presence,
    RecordOffer,
    Renew,
    RenewAck,
    Seen,
    Signed,
    StrictAcquire,
    StrictAnswer,
    StrictAsk,
    StrictResult,
    WireMessage,
    decode_frame,
    decode_message,
    decode_signed,
    encode_frame,
    encode_message,
    encode_signed,
)
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import Resource

BODY = ClaimBody("p.1.2", "agent", (Resource("file", "a.py"), Resource("issue", "I-1")), "shared", -3, 17, 1_000, "why")
DISCLOSED = Disclosed(BODY, granted=True, grade="quorum", remaining_ms=12, reachable=True)
MESSAGES: tuple[WireMessage, ...] = (
    Hello(version="1.2", incarnation=3, heads=(Head("p", 1, 2),)),
    Members(members=(Member("p", 60_000),), partial=True),
    Heads(heads=(Head("p", 1, 0),), reply=True),
    Envelopes(envelopes=(Envelope("p", 1, 1, 1, b"update", b"s" * 64),)),
    Presence(incarnation=1, count=2, ping=3, pong=4),
    Bye(),
    RecordOffer(records=(b"{}", b"")),
    Claim(claim=BODY, round=4, hold_ms=5, granted=True, grade="quorum"),
    Ack(id="p.1.2", round=4, yields=("q.1.1",), disclosed=(DISCLOSED,), lamport=9, counts=False),
    Granted(id="p.1.2", grade="quorum"),
    End(id="p.1.2", reason="released"),
    Renew(incarnation=1, round=2, numbers=(1, 2, 3)),
    RenewAck(incarnation=1, round=2, unsettled=(2,), lamport=7, counts=False),
    StrictAsk(op=StrictAcquire(BODY, 3, (Seen("q.1.1", 4, 5), Seen("q.1.2")), "2026-01-01T00:00:00Z")),
    StrictAnswer(id="p.1.2", result=StrictResult("held", holders=(InTheWay("q.1.1", "b", (), 0, 4, 5, 6),)), reason="why"),
)


def raw(**fields: Any) -> bytes:
    return msgspec.msgpack.encode([fields])


def claim_with(**changes: Any) -> bytes:
    values = dict(zip(ClaimBody.__struct_fields__, msgspec.to_builtins(BODY), strict=True)) | changes
    return raw(t="claim", claim=list(values.values()), round=1, holdMs=1)


def test_every_type_of_message_comes_back_as_it_was() -> None:
    assert {type(message) for message in MESSAGES} == set(get_args(WireMessage))
    assert decode_frame(encode_frame(MESSAGES)) == MESSAGES
    for message in MESSAGES:
        assert decode_message(encode_message(message)) == message
    signed = Signed("p", b"payload", b"s" * 64)
    assert decode_signed(encode_signed(signed)) == signed


def test_defaults_are_not_sent() -> None:
    assert msgspec.msgpack.decode(encode_message(Ack(id="p.1.1", round=0))) == {"t": "ack", "id": "p.1.1", "round": 0}


def test_tags_are_what_other_versions_will_know_them_by() -> None:
    expected = "hello heads env presence bye record claim ack granted end renew renewack members sask sanswer"
    assert sorted(KNOWN_TAGS) == sorted(expected.split())


def test_what_a_newer_peer_says_is_skipped_and_the_rest_is_heard() -> None:
    frame = msgspec.msgpack.encode(
        [{"t": "song", "notes": [1]}, {"t": "bye", "mood": "fine"}, {"t": "presence", "incarnation": 1, "count": 2}]
    )
    assert decode_frame(frame) == (Bye(), Presence(incarnation=1, count=2))
    assert decode_frame(msgspec.msgpack.encode([])) == ()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"t": "bye"}),
        msgspec.msgpack.encode([[1]]),
        msgspec.msgpack.encode(["bye"]),
        msgspec.msgpack.encode([{"id": "no tag"}]),
        msgspec.msgpack.encode([{"t": 7}]),
        msgspec.msgpack.encode([{"t": b"\xff"}]),
        b"\x91\x81\xa1t\xa1\xff",
        encode_frame([Bye()]) + b"\x00",
        encode_frame([Bye()])[:-1],
        b"\x91" * 100_000,
        raw(t="presence", incarnation=-1, count=0),
        raw(t="presence", incarnation=1 << 53, count=0),
        raw(t="presence", incarnation=1.5, count=0),
        raw(t="presence", incarnation="1", count=0),
        raw(t="presence", count=0),
        raw(t="end", id=""),
        raw(t="end", id="x" * 201),
        raw(t="end", id="p.1.1", reason="x" * 4_097),
        raw(t="granted", id="p.1.1", grade="supreme"),
        raw(t="renew", incarnation=1, round=1, numbers=[1] * (MAX_RENEWED + 1)),
        raw(t="record", records=[b"x" * 16_385]),
        raw(t="env", envelopes=[["p", 1, 0, 1, b"", b""]]),
        raw(t="env", envelopes=[["p", 1, 1, 1, b"x" * (MAX_ENVELOPE_BYTES + 1), b""]]),
        raw(t="env", envelopes=[["p", 1, 1, 1, b"", b"s" * 65]]),
        claim_with(resources=[]),
        claim_with(resources=[["file", "a"]] * (MAX_RESOURCES + 1)),
        claim_with(resources=[["planet", "a"]]),
        claim_with(mode="greedy"),
        claim_with(priority=1_000_001),
        claim_with(ttl_ms=0),
        claim_with(ttl_ms=7 * 24 * 3_600_000 + 1),
        claim_with(id=None),
    ],
)
def test_what_is_out_of_bounds_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        decode_frame(frame)


def test_a_frame_has_a_largest_size_and_a_largest_number_of_messages() -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        decode_frame(b"\x90" + b"\0" * MAX_FRAME_BYTES)
    assert len(decode_frame(encode_frame([Bye()] * MAX_MESSAGES))) == MAX_MESSAGES
    with pytest.raises(ProtocolError, match="messages in a frame"):
        decode_frame(encode_frame([Bye()] * (MAX_MESSAGES + 1)))


def test_the_largest_of_what_may_be_said_fits_a_frame() -> None:
    names = tuple(Resource("file", f"{n:04}") for n in range(MAX_RESOURCES))
    claim = Claim(claim=msgspec.structs.replace(BODY, resources=names), round=1, hold_ms=1)
    renew = Renew(incarnation=1, round=1, numbers=tuple(range((1 << 52), (1 << 52) + MAX_RENEWED)))
    for message in (claim, renew):
        assert decode_frame(encode_frame([message])) == (message,)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93", msgspec.msgpack.encode(["", b"", b""]), b"\x91" * 100_000])
def test_gossip_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed gossip"):
        decode_signed(data)
    with pytest.raises(ProtocolError, match="malformed message"):
        decode_message(data)


# --- whatever comes -------------------------------------------------------------------------------------------------------

trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("t", "id", "round", "claim", "heads", "numbers")) | st.text(max_size=3), inner, max_size=4
        )
    ),
    max_leaves=12,
)
tagged = st.builds(
    lambda tag, rest: {**rest, "t": tag},
    st.sampled_from(sorted(KNOWN_TAGS)),
    st.dictionaries(st.sampled_from(("id", "round", "claim", "disclosed", "yields", "heads", "count", "incarnation")), trees),
)


def survives(data: bytes) -> None:
    for decode in (decode_frame, decode_signed, decode_message):
        with suppress(ProtocolError):
            decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_protocol_error(data: bytes) -> None:
    survives(data)


@given(st.lists(trees | tagged, max_size=4))
def test_any_structure_is_a_frame_or_a_protocol_error(parts: list[Any]) -> None:
    survives(msgspec.msgpack.encode(parts))


@given(st.sampled_from(MESSAGES), st.integers(0, 10_000), st.integers(0, 255))
def test_any_damage_to_a_frame_is_noticed_or_harmless(message: WireMessage, place: int, byte: int) -> None:
    frame = bytearray(encode_frame([message, message]))
    frame[place % len(frame)] = byte
    survives(bytes(frame))
    survives(bytes(frame[: place % len(frame)]))


@given(st.integers(1, 30_000), st.sampled_from([b"\x91", b"\x81\xa1t", b"\xc7"]))
def test_depth_is_no_way_in(depth: int, opening: bytes) -> None:
    survives(opening * depth)


def test_the_protocol_has_a_version() -> None:
    assert Hello(incarnation=1).protocol == wire.PROTOCOL_VERSION == 1
