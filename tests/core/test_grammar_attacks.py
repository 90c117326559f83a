"""Updates that a hostile peer may send: each is refused, and the view stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pycrdt import Array, Doc, Map, Text, XmlFragment
from tests.core.grammar_bench import CLIENT, OWNER, Author

from sudocode_coordination.core.grammar import (
    MAX_KEY_BYTES,
    MAX_LATER_ROOTS,
    MAX_VALUE_BYTES,
    FeedState,
    GrammarError,
    client_id,
    parse_update,
)
from sudocode_coordination.core.wire import MAX_ENVELOPE_BYTES

# --- attacks --------------------------------------------------------------------------------------------------------------


def uint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str) -> bytes:
    return uint(len(value.encode())) + value.encode()


def first(root: str, key: str, content: bytes, mask: int = 0x28) -> bytes:
    return bytes([mask, 1]) + text(root) + text(key) + content


def section(client: int, clock: int, *structs: bytes, count: int | None = None) -> bytes:
    return uint(len(structs) if count is None else count) + uint(client) + uint(clock) + b"".join(structs)


def update_of(*sections: bytes, deletes: bytes = b"\0") -> bytes:
    return uint(len(sections)) + b"".join(sections) + deletes


def deletes_of(client: int, *ranges: tuple[int, int]) -> bytes:
    return b"\1" + uint(client) + uint(len(ranges)) + b"".join(uint(at) + uint(length) for at, length in ranges)


ONE = b"\1" + b"\x7d\1"
OWN_KEY = f"{OWNER}/k"
BEGUN = 3
"""Clock of the feed that is attacked: `a` overwritten once (0, 1), `b` (2) deleted."""


def begun() -> FeedState:
    author = Author()
    author.write({("leases", "a"): 1})
    author.write({("leases", "a"): 2})
    author.write({("leases", "b"): 3})
    author.write({("leases", "b"): None})
    assert author.state.clock == BEGUN
    return author.state


def own(*structs: bytes, deletes: bytes = b"\0") -> bytes:
    return update_of(section(CLIENT, BEGUN, *structs), deletes=deletes)


def then(client: int, clock: int, content: bytes = ONE, mask: int = 0xA8) -> bytes:
    return bytes([mask]) + uint(client) + uint(clock) + content


VICTIM = client_id("victim", 1)
ATTACKS: dict[str, bytes] = {
    "nested 13,500 deep": own(first("leases", OWN_KEY, b"\1" + b"\x75\1" * 13_500 + b"\x7e")),
    "objects nested": own(first("leases", OWN_KEY, b"\1" + (b"\x76\1" + text("a")) * 5_000 + b"\x7e")),
    "list of a huge length": own(first("leases", OWN_KEY, b"\1\x75" + uint(2**40))),
    "object of a huge length": own(first("leases", OWN_KEY, b"\1\x76" + uint(2**52))),
    "string of a huge length": own(first("leases", OWN_KEY, b"\1\x77" + uint(2**52) + b"x")),
    "content of a huge length": own(first("leases", OWN_KEY, uint(2**50) + b"\x7d\1")),
    "huge number of structs": update_of(section(CLIENT, BEGUN, first("leases", OWN_KEY, ONE), count=2**50)),
    "huge number of clients": uint(2**31) + section(CLIENT, BEGUN, first("leases", OWN_KEY, ONE)) + b"\0",
    "huge number of delete ranges": own(first("leases", OWN_KEY, ONE), deletes=b"\1" + uint(CLIENT) + uint(2**50)),
    "delete of a huge range": own(first("leases", OWN_KEY, ONE), deletes=deletes_of(CLIENT, (0, 2**50))),
    "foreign client": update_of(section(VICTIM, BEGUN, first("leases", OWN_KEY, ONE))),
    "two clients": update_of(
        section(CLIENT, BEGUN, first("leases", OWN_KEY, ONE)), section(VICTIM, 0, first("leases", OWN_KEY, ONE))
    ),
    "foreign key": own(first("leases", "victim/k", ONE)),
    "foreign key with a like prefix": own(first("leases", f"{OWNER}x/k", ONE)),
    "key without a name": own(first("leases", f"{OWNER}/", ONE)),
    "key that is too long": own(first("leases", f"{OWNER}/" + "k" * (MAX_KEY_BYTES + 1), ONE)),
    "unknown root of no usual name": own(first("__proto__", OWN_KEY, ONE)),
    "unknown root of no name": own(first("", OWN_KEY, ONE)),
    "unknown root of a long name": own(first("x" * 41, OWN_KEY, ONE)),
    "more unknown roots than there may be": own(*(first(f"later{chr(97 + n)}", OWN_KEY, ONE) for n in range(MAX_LATER_ROOTS + 1))),
    "deletes of a victim's": own(first("leases", OWN_KEY, ONE), deletes=deletes_of(VICTIM, (0, 5))),
    "deletes of a victim's alone": b"\0" + deletes_of(VICTIM, (0, 2**40)),
    "deletes of two clients": b"\0\2" + deletes_of(CLIENT, (1, 1))[1:] + deletes_of(VICTIM, (0, 1))[1:],
    "delete of what is to come": b"\0" + deletes_of(CLIENT, (BEGUN, 1)),
    "delete of what this update writes": own(first("leases", OWN_KEY, ONE), deletes=deletes_of(CLIENT, (BEGUN, 1))),
    "delete of what is deleted": b"\0" + deletes_of(CLIENT, (2, 1)),
    "delete of what was overwritten": b"\0" + deletes_of(CLIENT, (0, 1)),
    "delete of nothing": b"\0" + deletes_of(CLIENT, (1, 0)),
    "delete twice": b"\0" + deletes_of(CLIENT, (1, 1), (1, 1)),
    "forged next clock": update_of(section(CLIENT, BEGUN + 1, first("leases", OWN_KEY, ONE))),
    "clock of the past": update_of(section(CLIENT, 0, first("leases", OWN_KEY, ONE))),
    "section of nothing": update_of(section(CLIENT, BEGUN)),
    "bytes left over": own(first("leases", OWN_KEY, ONE)) + b"\0",
    "an update after the update": own(first("leases", OWN_KEY, ONE)) * 2,
    "a key begun again": own(first("leases", f"{OWNER}/a", ONE)),
    "a key twice": own(first("leases", OWN_KEY, ONE), first("leases", OWN_KEY, ONE)),
    "a key overwritten twice": own(then(CLIENT, 1), then(CLIENT, 1)),
    "origin that is not the last": own(then(CLIENT, 0)),
    "origin in this update": own(first("leases", OWN_KEY, ONE), then(CLIENT, BEGUN)),
    "origin of another": own(then(VICTIM, 1)),
    "right origin": own(bytes([0x68]) + uint(CLIENT) + uint(1) + ONE),
    "both origins": own(bytes([0xE8]) + (uint(CLIENT) + uint(1)) * 2 + ONE),
    "origin without the key's bit": own(then(CLIENT, 1, mask=0x88)),
    "parent by id": own(bytes([0x28, 0]) + uint(CLIENT) + uint(1) + text(OWN_KEY) + ONE),
    "parent of an unknown kind": own(bytes([0x28, 2]) + text("leases") + text(OWN_KEY) + ONE),
    "an item of a list": own(bytes([0x08, 1]) + text("leases") + ONE),
    "several values": own(first("leases", OWN_KEY, b"\2\x7d\1\x7d\2")),
    "no value": own(first("leases", OWN_KEY, b"\0")),
    "null": own(first("leases", OWN_KEY, b"\1\x7e")),
    "undefined": own(first("leases", OWN_KEY, b"\1\x7f")),
    "bytes": own(first("leases", OWN_KEY, b"\1\x74\1x")),
    "a big integer": own(first("leases", OWN_KEY, b"\1\x7a" + b"\xff" * 8)),
    "not a number": own(first("leases", OWN_KEY, b"\1\x7b\x7f\xf8" + b"\0" * 6)),
    "infinity": own(first("leases", OWN_KEY, b"\1\x7c\x7f\x80\0\0")),
    "an integer that overflows": own(first("leases", OWN_KEY, b"\1\x7d" + b"\xbf" + b"\xff" * 9 + b"\1")),
    "an integer in a long form": own(first("leases", OWN_KEY, b"\1\x7d\x81\0")),
    "a clock that overflows": b"\1\1" + uint(CLIENT) + b"\xff" * 9 + b"\1" + first("leases", OWN_KEY, ONE) + b"\0",
    "a count in a long form": b"\x81\0" + section(CLIENT, BEGUN, first("leases", OWN_KEY, ONE)) + b"\0",
    "endless number": b"\xff" * 60_000,
    "an object key twice": own(first("leases", OWN_KEY, b"\1\x76\2" + (text("a") + b"\x7d\1") * 2)),
    "a prototype": own(first("leases", OWN_KEY, b"\1\x76\1" + text("__proto__") + b"\x76\0")),
    "no UTF-8": own(first("leases", OWN_KEY, b"\1\x77\2\xff\xfe")),
    "a surrogate": own(first("leases", OWN_KEY, b"\1\x77\3\xed\xa0\x80")),
    "key that is no UTF-8": own(bytes([0x28, 1]) + text("leases") + uint(len(OWNER) + 2) + OWNER.encode() + b"/\xff" + ONE),
    "GC": own(b"\0\1"),
    "skip": own(b"\x0a\x81\1"),
    "deleted content": own(first("leases", OWN_KEY, b"\1", mask=0x21)),
    "JSON content": own(first("leases", OWN_KEY, b"\1\x04null", mask=0x22)),
    "binary content": own(first("leases", OWN_KEY, b"\1x", mask=0x23)),
    "string content": own(first("leases", OWN_KEY, b"\1x", mask=0x24)),
    "embedded content": own(first("leases", OWN_KEY, b"\x04null", mask=0x25)),
    "format content": own(first("leases", OWN_KEY, b"\1x\x04null", mask=0x26)),
    "nested map": own(first("leases", OWN_KEY, b"\1", mask=0x27)),
    "nested XML": own(first("leases", OWN_KEY, b"\3\1x", mask=0x27)),
    "subdocument": own(first("leases", OWN_KEY, b"\1x\x76\0", mask=0x29)),
    "move": own(first("leases", OWN_KEY, b"\0", mask=0x2B)),
    "empty": b"",
    "one byte": b"\1",
    "a value that is too large": own(first("leases", OWN_KEY, b"\1\x77" + text("x" * MAX_VALUE_BYTES))),
    "an update that is too large": own(*(first("leases", f"{OWNER}/{n}", b"\1\x77" + text("x" * 9_000)) for n in range(8))),
    "a flat value of too many parts": own(first("leases", OWN_KEY, b"\1\x75" + uint(30_000) + b"\x7e" * 30_000)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name: str) -> None:
    state = begun()
    before = (state.clock, dict(state.slots), dict(state.key_of), state.live_bytes, state.live_count)
    with pytest.raises(GrammarError):
        parse_update(state, OWNER, CLIENT, ATTACKS[name])
    assert before == (state.clock, dict(state.slots), dict(state.key_of), state.live_bytes, state.live_count)


def test_the_attacks_fail_for_their_own_reason() -> None:
    """The frame that they are built in is sound: the same, harmless, is accepted."""
    state = begun()
    for sound in (
        own(first("leases", OWN_KEY, ONE)),
        own(then(CLIENT, 1)),
        own(then(CLIENT, 2)),
        own(then(CLIENT, 1), deletes=deletes_of(CLIENT, (1, 1))),
        b"\0" + deletes_of(CLIENT, (1, 1)),
        b"\0\0",
    ):
        parse_update(state, OWNER, CLIENT, sound)


@pytest.mark.parametrize(
    "nested_type", [lambda: Map({"a": 1}), lambda: Array([1]), lambda: Text("a"), XmlFragment], ids=["map", "array", "text", "xml"]
)
def test_nested_types_of_the_library_are_refused(nested_type: Callable[[], Any]) -> None:
    doc: Doc[Any] = Doc(client_id=CLIENT)
    doc.get("leases", type=Map)[f"{OWNER}/k"] = nested_type()
    with pytest.raises(GrammarError):
        parse_update(FeedState(), OWNER, CLIENT, doc.get_update())


def test_every_truncation_is_refused() -> None:
    author = Author()
    update = author.write({("leases", "a"): {"x": [1.5, "é", 2**40, 0.1]}, ("activeWork", "b"): True})
    for end in range(len(update)):
        with pytest.raises(GrammarError):
            parse_update(FeedState(), OWNER, CLIENT, update[:end])
    assert len(update) < MAX_ENVELOPE_BYTES
