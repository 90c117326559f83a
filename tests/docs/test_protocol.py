"""`docs/protocol.md` has every message and every limit that it names as the code has them."""

from __future__ import annotations

import re
from typing import Any, Final, get_args

import msgspec
import pytest
from tests.docs.blocks import ROOT, blocks_of

from sudocode_coordination.adapters import links
from sudocode_coordination.core import author, beats, feed, grammar, records, sync, wire
from sudocode_coordination.core.facts import ROOTS
from sudocode_coordination.model import Resource

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
DISCOVERY = (ROOT / "docs" / "discovery.md").read_text("utf-8")


def test_every_message_is_listed() -> None:
    listed = re.findall(r"^\| `(\w{2,})` \|", PROTOCOL, re.MULTILINE)
    assert sorted(listed) == sorted(wire.KNOWN_TAGS)


ARRAYS: Final[dict[str, type[Any]]] = {
    "head": wire.Head,
    "envelope": wire.Envelope,
    "member": wire.Member,
    "body": wire.ClaimBody,
    "resource": Resource,
    "disclosed": wire.Disclosed,
    "left": wire.Left,
    "acquire": wire.StrictAcquire,
    "renewal": wire.StrictRenew,
    "removal": wire.StrictRelease,
    "seen": wire.Seen,
    "result": wire.StrictResult,
    "inTheWay": wire.InTheWay,
    "lost": wire.Lost,
}
"""What is within messages, by its name in the document."""


def fields_told(of: str) -> dict[str, list[str]]:
    """The lines of the block that has one of that name: name -> its fields, as they stand there."""
    listed = [block.text for block in blocks_of(ROOT / "docs" / "protocol.md") if ": uint" in block.text]
    (text,) = [text for text in listed if re.search(rf"^{of} ", text, re.MULTILINE)]
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    return {name: rest.split(" · ") for name, rest in lines}


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


@pytest.mark.parametrize("kind", get_args(wire.WireMessage), ids=lambda kind: str(kind.__struct_config__.tag))
def test_every_field_of_a_message_is_told(kind: type[Any]) -> None:
    fields = msgspec.structs.fields(kind)
    expected = [f"{field.encode_name}{'' if field.required else '?'}" for field in fields]
    told = fields_told("hello").get(kind.__struct_config__.tag, [])
    assert [field.partition(":")[0] for field in told] == expected


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_every_array_is_told_in_its_order(name: str) -> None:
    kind = ARRAYS[name]
    tag = kind.__struct_config__.tag
    expected = ([f'"{tag}"'] if tag else []) + [camel(field.name) for field in msgspec.structs.fields(kind)]
    told = fields_told("envelope")
    assert set(told) == set(ARRAYS)
    assert [field.partition(":")[0] for field in told[name]] == expected
    assert kind.__struct_config__.array_like


def test_every_root_map_is_named() -> None:
    assert [root for root in ROOTS if f"`{root}`" not in PROTOCOL] == []


def test_names_and_limits_are_those_of_the_code() -> None:
    for text in (links.SYNC_PROTOCOL, sync.SYNC_TOPIC, beats.PRESENCE_TOPIC, feed.SIGNED_DOMAIN.decode().rstrip("\0")):
        assert f"`{text}`" in PROTOCOL
    limits = links.LinkLimits()
    text = " ".join(PROTOCOL.split())
    keepalive, silence = f"{limits.keepalive} s", f"{limits.silence:.0f} s"
    assert f"nothing for {keepalive} after it sent something sends a probe, and after {silence} it disconnects" in text
    assert f"nothing else was sent for {keepalive}, and it is disconnected when it was silent for {silence}" in text
    assert f"after {links.IDLE_PER_LINK_S:.0f} s for each other link that the side has, {keepalive} at least" in text
    assert (links.PROBE, links._MOVED) == (0xFFFF_FFFF, 0xFFFF_FFFE)
    assert re.search(r"^probe +ff ff ff ff ", PROTOCOL, re.MULTILINE)
    assert re.search(r"^moved +ff ff ff fe ", PROTOCOL, re.MULTILINE)
    assert f"{links.DUPLICATE} (duplicate: another stream is up already) or {links.MOVE} (move)" in text
    assert wire.MAX_FRAME_BYTES == 1 << 20
    assert "at most 1 MiB" in PROTOCOL
    assert (author.COMPACT_BYTES, author.COMPACT_FACTOR, author.FLUSH_MS) == (16 << 10, 4, 50)
    assert "past 16 KB and four times its last snapshot" in PROTOCOL
    assert "collected for 50 ms" in PROTOCOL
    assert (wire.MAX_ENVELOPE_BYTES, grammar.MAX_VALUE_BYTES, grammar.MAX_DEPTH) == (64 << 10, 32 << 10, 8)
    assert "at most 64 KB, a value 32 KB, eight levels deep" in " ".join(PROTOCOL.split())
    assert sync.EXCHANGE_MS == 30_000
    assert "Every 30 s" in PROTOCOL


def test_records_are_as_discovery_has_them() -> None:
    assert records.SIGNED_PREFIX.decode().rstrip("\n") in DISCOVERY
    assert f"at most {records.MAX_MULTIADDRS}" in DISCOVERY
    assert f"at most {records.MAX_CAPABILITIES}" in DISCOVERY
    assert records.MAX_RECORD_BYTES == 16 << 10
    assert "at most 16 KB" in DISCOVERY
    assert sorted(re.findall(r"^\| `(\w+)` \|", DISCOVERY, re.MULTILINE)) == sorted(
        ["agentId", "multiaddrs", "publicKey", "capabilities", "lastSeen", "ttl", "ext"]
    )
