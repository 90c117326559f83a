"""Lists in lists in lists: what overflows native stacks, or Python's own. Everything that comes from elsewhere is parsed by
something that refuses depth, or does not recurse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.attacks.siege import Siege
from tests.core.feeds import Pen, identity

from sudocode_coordination.api.codec import CallError, decode_call
from sudocode_coordination.cli.branch import _parse as doctor_reads
from sudocode_coordination.core.feed import decode_envelope
from sudocode_coordination.core.grammar import FeedState, client_id, parse_update
from sudocode_coordination.core.records import offered_name, parse_record
from sudocode_coordination.core.strict_table import META, Table, path_of
from sudocode_coordination.core.wire import decode_frame, decode_message, decode_signed
from sudocode_coordination.errors import CoordinationError

DEPTHS = (9, 100, 1_000, 8_000, 60_000)
OWNER = identity("mallory").peer_id
ENTRY = f"{OWNER}.1.1"


def packed(depth: int, *, maps: bool = False) -> bytes:
    return (b"\x81\xa1a" if maps else b"\x91") * depth + b"\x01"


def text(depth: int, *, maps: bool = False) -> bytes:
    return (b'{"a":' if maps else b"[") * depth + b"1" + (b"}" if maps else b"]") * depth


def yjs(depth: int, *, maps: bool = False) -> bytes:
    key = f"{OWNER}/k".encode()
    head = b"\x01\x01" + _uint(client_id(OWNER, 1)) + b"\x00\x28\x01\x06leases" + _uint(len(key)) + key + b"\x01"
    return head + (b"\x76\x01\x01a" if maps else b"\x75\x01") * depth + b"\x78\x00"


def _uint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*out, value])


def table(path: str) -> Callable[[bytes], Any]:
    def read(data: bytes) -> None:
        table = Table().changed({path: data})
        if not (table.skipped or table.damaged):
            raise AssertionError("taken for sound")
        raise ValueError("skipped")

    return read


def refuses(found: object) -> None:
    """Some parsers say what is wrong instead of raising it."""
    if found is None or isinstance(found, str):
        raise ValueError(found)


KEYRING = identity("ann")
PARSERS: dict[str, tuple[Callable[[bytes], Any], Callable[..., bytes]]] = {
    "frame": (decode_frame, lambda depth, **how: b"\x91" + packed(depth, **how)),
    "field of a message": (decode_frame, lambda depth, **how: b"\x91\x82\xa1t\xa5hello\xa5heads" + packed(depth, **how)),
    "gossiped message": (decode_message, packed),
    "signed gossip": (decode_signed, packed),
    "envelope": (decode_envelope, packed),
    "update of a feed": (lambda data: parse_update(FeedState(), OWNER, client_id(OWNER, 1), data), yjs),
    "peer record": (lambda data: refuses(parse_record("agent-a.json", data, KEYRING)), text),
    "extension of a peer record": (
        lambda data: refuses(parse_record("agent-a.json", data, KEYRING)),
        lambda depth, **how: b'{"agentId":"a","ext":' + text(depth, **how) + b"}",
    ),
    "offered record": (lambda data: refuses(offered_name(data)), text),
    "record in the doctor's hands": (lambda data: refuses(doctor_reads("agent-a.json", data)), text),
    "meta of the table": (table(META), text),
    "lease in the table": (table(path_of(ENTRY)), text),
    "request at the local socket": (decode_call, text),
}


@pytest.mark.parametrize("maps", [False, True], ids=["lists", "maps"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", PARSERS)
def test_depth_is_refused_by_every_parser(name: str, depth: int, maps: bool) -> None:
    parse, make = PARSERS[name]
    with pytest.raises((CoordinationError, ValueError, CallError)):
        parse(make(depth, maps=maps))


def test_a_field_of_a_message_to_come_may_be_as_deep_as_it_likes() -> None:
    """Unknown fields are stepped over, not built."""
    siege = Siege()
    for depth in (100, 900):
        siege.sends(b"\x91\x82\xa1t\xa4song\xa1x" + packed(depth))
    assert siege.mallory in siege.ann.links
    siege.sends(b"\x91\x82\xa1t\xa4song\xa1x" + packed(200_000))
    siege.is_unharmed()


def test_a_value_at_the_limit_of_depth_goes_the_whole_way() -> None:
    """From a feed into the document, to clients and back: eight levels, as the grammar allows."""
    from sudocode_coordination.api.requests import ListWork
    from sudocode_coordination.core.wire import Envelopes

    deep: Any = "x"
    for _ in range(7):
        deep = [deep]
    siege, pen = Siege(), Pen("mallory")
    entry = {"status": "deep", "metadata": {}, "startedAt": "2027", "updatedAt": "2027", "files": ["a"], "issues": [], "specs": []}
    siege.says(Envelopes(envelopes=(pen.write({("activeWork", "mallory"): entry, ("fileDiffs", "d"): deep}),)))
    assert siege.ann.node.sync.document.get("fileDiffs", OWNER, "d") == deep
    (work,) = siege.asks("ann", ListWork())
    assert json.loads(json.dumps(work.status)) == "deep"
