"""Peer records: the exact format, and everything that keeps a file from counting as one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.core.records import (
    MAX_CAPABILITIES,
    MAX_MULTIADDRS,
    MAX_RECORD_BYTES,
    SIGNED_PREFIX,
    agent_of_name,
    build_record,
    format_wall,
    parse_record,
    parse_wall,
    peer_of,
    record_name,
)
from sudocode_coordination.model import PeerRecord
from sudocode_coordination.sim.identity import SimKeyring

WALL = 1_800_000_000_123
ALICE = SimKeyring("alice")
BOB = SimKeyring("bob")


def built(keyring: SimKeyring = ALICE, **changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "agent_id": "a-1",
        "multiaddrs": (
            "/ip4/192.0.2.1/tcp/4001",
            "/ip4/192.0.2.1/tcp/4002/ws",
            "/ip6/2001:db8::1/tcp/4001",
            "/dns4/h.example/tcp/1",
        ),
        "capabilities": ("code", "überprüfen"),
        "wall_ms": WALL,
        "ttl_ms": 900_000,
    }
    return build_record(keyring, **{**fields, **changed})


def resigned(change: Callable[[dict[str, Any]], None], keyring: SimKeyring = ALICE) -> bytes:
    """A record with something changed, and signed again by who would do such a thing."""
    body = json.loads(built())
    change(body)
    ext = body.get("ext")
    if isinstance(ext, dict):
        unsigned = {**body, "ext": {k: v for k, v in ext.items() if k != "signature"}}
        text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"))
        ext["signature"] = base64.b64encode(keyring.sign(SIGNED_PREFIX + text.encode())).decode()
    return json.dumps(body).encode()


def test_format_is_the_contracts() -> None:
    body = json.loads(built())
    assert list(body) == ["agentId", "multiaddrs", "publicKey", "capabilities", "lastSeen", "ttl", "ext"]
    assert body["agentId"] == "a-1"
    assert body["lastSeen"] == "2027-01-15T08:00:00.123Z"
    assert body["ttl"] == 900_000
    assert base64.b64decode(body["publicKey"]) == ALICE.public_key
    assert list(body["ext"]) == ["v", "peerId", "signature"]
    assert body["ext"]["v"] == 1
    assert body["ext"]["peerId"] == ALICE.peer_id
    assert len(base64.b64decode(body["ext"]["signature"])) == 64
    assert built().endswith(b"}\n")


def test_round_trip() -> None:
    record = parse_record("agent-a-1.json", built(), BOB)
    assert isinstance(record, PeerRecord)
    assert record.agent_id == "a-1"
    assert record.capabilities == ("code", "überprüfen")
    assert len(record.multiaddrs) == 4
    assert parse_wall(record.last_seen) == WALL
    assert peer_of(record) == ALICE.peer_id


def test_reformatting_keeps_a_record_valid() -> None:
    compact = json.dumps(json.loads(built()), sort_keys=True).encode()
    assert isinstance(parse_record("agent-a-1.json", compact, BOB), PeerRecord)


def test_an_unknown_signed_field_of_ext_is_for_later_versions() -> None:
    data = resigned(lambda body: body["ext"].update(nat={"kind": "cone"}))
    record = parse_record("agent-a-1.json", data, BOB)
    assert isinstance(record, PeerRecord)
    assert record.ext["nat"] == {"kind": "cone"}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("agentId", "other", "agentId"),
        ("agentId", 7, "agentId"),
        ("multiaddrs", "/ip4/1.2.3.4/tcp/1", "multiaddrs"),
        ("multiaddrs", [1], "multiaddrs"),
        ("multiaddrs", ["/ip4/1.2.3.4/tcp/1"] * (MAX_MULTIADDRS + 1), "multiaddrs"),
        ("multiaddrs", ["http://x"], "no address"),
        ("multiaddrs", ["/ip4/1.2.3.4/tcp/1 "], "no address"),
        ("multiaddrs", ["/ip4/1.2.3.4/tcp/1\u001b[2J"], "printed"),
        ("multiaddrs", ["/dns4/" + "a" * 300 + "/tcp/1"], "no address"),
        ("capabilities", ["c"] * (MAX_CAPABILITIES + 1), "capabilities"),
        ("capabilities", [""], "capabilities"),
        ("capabilities", {"a": 1}, "capabilities"),
        ("publicKey", "!!!", "publicKey"),
        ("publicKey", base64.b64encode(BOB.public_key).decode(), "publicKey"),
        ("publicKey", 5, "publicKey"),
        ("lastSeen", 5, "lastSeen"),
        ("lastSeen", "yesterday", "lastSeen"),
        ("lastSeen", "2027-02-30T00:00:00Z", "lastSeen"),
        ("lastSeen", "2027-01-15T08:00:00+02:00", "lastSeen"),
        ("ttl", 0, "ttl"),
        ("ttl", True, "ttl"),
        ("ttl", "900000", "ttl"),
        ("ttl", 8 * 24 * 3_600_000, "ttl"),
        ("ttl", 900.5, "integer"),
        ("ttl", 10**30, "too large"),
        ("ext", None, "not signed"),
        ("ext", {}, "not signed"),
        ("ext", {"v": 2, "peerId": ALICE.peer_id}, "version"),
        ("ext", {"v": True, "peerId": ALICE.peer_id}, "version"),
        ("ext", {"v": 1, "peerId": "12D3KooWnonsense"}, "peer id"),
        ("ext", {"v": 1, "peerId": "é" * 50}, "peer id"),
        ("ext", {"v": 1, "peerId": BOB.peer_id}, "publicKey"),
        ("surprise", 1, "unknown field"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any, reason: str) -> None:
    told = parse_record("agent-a-1.json", resigned(lambda body: body.update({field: value})), BOB)
    assert isinstance(told, str)
    assert reason in told


@pytest.mark.parametrize("field", ["agentId", "multiaddrs", "publicKey", "capabilities", "lastSeen", "ttl", "ext"])
def test_a_missing_field_is_told(field: str) -> None:
    told = parse_record("agent-a-1.json", resigned(lambda body: body.pop(field)), BOB)
    assert isinstance(told, str)


def test_a_record_of_another_program_is_told_as_unsigned() -> None:
    plain = json.loads(built())
    del plain["ext"]
    told = parse_record("agent-a-1.json", json.dumps(plain).encode(), BOB)
    assert told == "not signed: some other program's record"


@pytest.mark.parametrize("field", ["agentId", "multiaddrs", "capabilities", "lastSeen", "ttl"])
def test_a_changed_field_breaks_the_signature(field: str) -> None:
    body = json.loads(built())
    other = json.loads(built(agent_id="a-2", multiaddrs=(), capabilities=(), wall_ms=WALL + 1, ttl_ms=60_000))
    body[field] = other[field]
    name = "agent-a-2.json" if field == "agentId" else "agent-a-1.json"
    assert parse_record(name, json.dumps(body).encode(), BOB) == "the signature is wrong"


def test_nobody_signs_for_another() -> None:
    assert parse_record("agent-a-1.json", resigned(lambda _: None, BOB), ALICE) == "the signature is wrong"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"NaN", "integer"),
        (b'{"a": Infinity}', "integer"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\\ud800"}', "printed"),
        (b'{"a": "\\u0000"}', "printed"),
        (b'{"a": "\\u202e"}', "printed"),
        (b'{"\\n": 1}', "printed"),
        (b"[" * 8_000, ""),
        (b"[" * 8_000 + b"]" * 8_000, ""),
        (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, ""),
        (b'{"a": ' + b"9" * 10_000 + b"}", "too large"),
        (b" " * (MAX_RECORD_BYTES + 1), "allowed"),
    ],
)
def test_hostile_bytes_are_only_a_reason(data: bytes, reason: str) -> None:
    told = parse_record("agent-a-1.json", data, BOB)
    assert isinstance(told, str)
    assert reason in told


@pytest.mark.parametrize(
    "name", ["agent-.json", "agent-../x.json", "agent--x.json", "a.json", "agent-a.json\n", "agent-a b.json", ""]
)
def test_names_that_no_agent_has(name: str) -> None:
    assert agent_of_name(name) is None
    assert isinstance(parse_record(name, built(), BOB), str)


def test_name_is_the_id_literally() -> None:
    assert record_name("agent-host-12") == "agent-agent-host-12.json"
    assert agent_of_name("agent-agent-host-12.json") == "agent-host-12"


def test_what_others_would_refuse_is_left_out() -> None:
    data = built(
        multiaddrs=("nonsense", "/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/1", *(f"/ip4/192.0.2.1/tcp/{n}" for n in range(2, 60))),
        capabilities=("", "x" * 99, "bell\a", "code", *("𝒳" * 60 + str(n) for n in range(100))),
        ttl_ms=1,
    )
    assert len(data) <= MAX_RECORD_BYTES
    record = parse_record("agent-a-1.json", data, BOB)
    assert isinstance(record, PeerRecord)
    assert len(record.multiaddrs) == MAX_MULTIADDRS
    assert record.capabilities[0] == "code"


@given(st.integers(min_value=0, max_value=4_000_000_000_000), st.integers(min_value=0, max_value=4_000_000_000_000))
def test_times_order_as_their_texts(one: int, other: int) -> None:
    assert parse_wall(format_wall(one)) == one
    assert (one < other) == (format_wall(one) < format_wall(other))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
field_names = st.sampled_from(["agentId", "multiaddrs", "publicKey", "capabilities", "lastSeen", "ttl", "ext", "more"])


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise(data: bytes) -> None:
    assert isinstance(parse_record("agent-a-1.json", data, BOB), str)


@given(field_names, json_values)
def test_no_field_raises(field: str, value: Any) -> None:
    result = parse_record("agent-a-1.json", resigned(lambda body: body.update({field: value})), BOB)
    if isinstance(result, PeerRecord):
        assert peer_of(result) == ALICE.peer_id
        assert all(c.isprintable() for c in result.capabilities)


@given(st.data())
def test_no_flipped_byte_passes_with_another_meaning(data: st.DataObject) -> None:
    original = built()
    at = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[at] = data.draw(st.integers(0, 255))
    result = parse_record("agent-a-1.json", bytes(changed), BOB)
    # White space between the fields may change: the meaning is what is signed.
    assert isinstance(result, str) or result == parse_record("agent-a-1.json", original, BOB)
