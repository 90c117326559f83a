"""Writes updates of a feed, in the grammar of `core/grammar.py`.

Not by the CRDT library: it would write the keys of an object in a random order of each process, and integers as floats; here
the same writes give the same bytes, so that a simulated run can be replayed exactly. Yjs and yrs read them as their own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from sudocode_coordination.core.facts import Root
from sudocode_coordination.core.grammar import (
    FORBIDDEN_NAME,
    ITEM_OVERHEAD,
    MASK_FIRST,
    MASK_NEXT,
    MAX_DEPTH,
    MAX_KEY_BYTES,
    MAX_NODES,
    MAX_SAFE_INT,
    MAX_VALUE_BYTES,
    FeedState,
)
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Json, PeerId

SNAPSHOT_PART_BYTES: Final = 60 << 10
"""One part of a snapshot, below `wire.MAX_ENVELOPE_BYTES`."""
_INT31: Final = (1 << 31) - 1
_pack32 = struct.Struct(">f")
_pack64 = struct.Struct(">d")


class Write(NamedTuple):
    """One key to write: its value as encoded by `encode_value`, or None to delete it."""

    root: Root
    key: str
    encoded: bytes | None


def check_key(key: str) -> None:
    """Whether an entry may have this key.

    Raises:
        UsageError: it is empty, too long, or no proper text.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise UsageError("a key must be proper Unicode text", hint="it holds a lone surrogate") from None
    if not 0 < size <= MAX_KEY_BYTES:
        raise UsageError(f"a key of {size} bytes", hint=f"1 to {MAX_KEY_BYTES} bytes are allowed")


def _append_uint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)


def _append_text(out: bytearray, text: str) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise UsageError("text must be proper Unicode", hint="it holds a lone surrogate") from None
    if len(raw) < 0x80:
        out.append(len(raw))
    else:
        _append_uint(out, len(raw))
    out += raw


def _append_int(out: bytearray, value: int) -> None:
    rest = abs(value)
    byte = (0x40 if value < 0 else 0) | rest & 0x3F
    rest >>= 6
    while rest:
        out.append(0x80 | byte)
        byte = rest & 0x7F
        rest >>= 7
    out.append(byte)


def _append_number(out: bytearray, value: int | float) -> int | float:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise UsageError(f"{value} is no number that JSON has")
        if value.is_integer() and abs(value) <= MAX_SAFE_INT:
            value = int(value)
    elif abs(value) > MAX_SAFE_INT:
        raise UsageError(
            f"the integer {value if abs(value) < 1 << 70 else '…'} is too large to share",
            hint="JavaScript tells integers apart up to 2^53 - 1: write it as a string",
        )
    if isinstance(value, int) and abs(value) <= _INT31:
        out.append(125)
        _append_int(out, value)
        return value
    real = float(value)
    # Half-way above the largest 32-bit float, packing overflows.
    if abs(real) < 3.4e38 and _pack32.unpack(_pack32.pack(real))[0] == real:
        out.append(124)
        out += _pack32.pack(real)
    else:
        out.append(123)
        out += _pack64.pack(real)
    return value


def _append_value(out: bytearray, value: object, depth: int, budget: list[int]) -> Json:
    """Append and return the value in its one form: lists for tuples, integers for whole floats, keys in order."""
    budget[0] -= 1
    if budget[0] < 0:
        raise UsageError(f"a value of more than {MAX_NODES} parts", hint="split it over several keys")
    match value:
        case str():
            out.append(119)
            _append_text(out, value)
            return value
        case None:
            out.append(126)
            return None
        case bool():
            out.append(120 if value else 121)
            return value
        case int() | float():
            return _append_number(out, value)
        case dict() | list() | tuple() if depth >= MAX_DEPTH:
            raise UsageError(f"a value nested deeper than {MAX_DEPTH}")
        case dict():
            for name in value:
                if not isinstance(name, str) or name == FORBIDDEN_NAME:
                    raise UsageError(f"{name!r} can't be the key of an object", hint=f"keys are strings, and not {FORBIDDEN_NAME}")
            out.append(118)
            _append_uint(out, len(value))
            found: dict[str, Json] = {}
            for name in sorted(value):
                _append_text(out, name)
                found[name] = _append_value(out, value[name], depth + 1, budget)
            return found
        case list() | tuple():
            out.append(117)
            _append_uint(out, len(value))
            return [_append_value(out, item, depth + 1, budget) for item in value]
        case _:
            raise UsageError(f"a {type(value).__name__} can't be shared", hint="values are what JSON can hold")


def encode_value(value: Json) -> tuple[bytes, Json]:
    """The bytes of a value, and the value as every peer will see it. Equal values give equal bytes.

    Raises:
        UsageError: it is null, too large, too deep, or not what JSON can hold.
    """
    if value is None:
        raise UsageError("null can't be an entry's value", hint="it stands for an entry that is gone")
    out = bytearray()
    clean = _append_value(out, value, 0, [MAX_NODES])
    if len(out) >= MAX_VALUE_BYTES:
        raise UsageError(
            f"a value of {len(out)} bytes is too large to share", hint=f"less than {MAX_VALUE_BYTES} bytes are allowed"
        )
    return bytes(out), clean


def encode_update(state: FeedState, owner: PeerId | None, client: int, writes: Iterable[Write]) -> bytes:
    """The update that does `writes` to a feed in `state`. Each key at most once; deletions of what is not there are left out.

    Args:
        owner: goes in front of each key; None: the keys are whole.
    """
    body = bytearray()
    count = 0
    deleted: list[int] = []
    for write in writes:
        slot = state.slots.get((write.root, write.key))
        if slot is not None and slot.live:
            deleted.append(slot.clock)
        if write.encoded is None:
            continue
        count += 1
        if slot is None:
            body += bytes((MASK_FIRST, 1))
            _append_text(body, write.root)
            _append_text(body, write.key if owner is None else f"{owner}/{write.key}")
        else:
            body.append(MASK_NEXT)
            _append_uint(body, client)
            _append_uint(body, slot.clock)
        body.append(1)
        body += write.encoded
    out = bytearray()
    if count:
        out.append(1)
        _append_uint(out, count)
        _append_uint(out, client)
        _append_uint(out, state.clock)
        out += body
    else:
        out.append(0)
    _append_deletes(out, client, sorted(deleted))
    return bytes(out)


def _append_deletes(out: bytearray, client: int, clocks: list[int]) -> None:
    if not clocks:
        out.append(0)
        return
    ranges: list[list[int]] = []
    for clock in clocks:
        if ranges and sum(ranges[-1]) == clock:
            ranges[-1][1] += 1
        else:
            ranges.append([clock, 1])
    out.append(1)
    _append_uint(out, client)
    _append_uint(out, len(ranges))
    for start, length in ranges:
        _append_uint(out, start)
        _append_uint(out, length)


def write_size_bytes(owner: PeerId, write: Write) -> int:
    """At least what the write adds to an update."""
    return ITEM_OVERHEAD + len(owner) + 4 * len(write.key) + len(write.encoded or b"")


def batches(owner: PeerId, writes: Iterable[Write], limit_bytes: int = SNAPSHOT_PART_BYTES) -> Iterator[list[Write]]:
    """The writes in their order, in groups whose update stays below the limit. Always at least one group, maybe empty."""
    batch: list[Write] = []
    size = 0
    for write in writes:
        more = write_size_bytes(owner, write)
        if batch and size + more > limit_bytes:
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += more
    yield batch
