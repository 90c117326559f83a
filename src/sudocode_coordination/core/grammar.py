"""What an update of a feed may look like: the only bytes from elsewhere that ever reach the CRDT library.

A feed is written by one author into the root maps of `facts.ROOTS`, whole JSON values under keys `<owner>/<key>`. (A later version
may have others: what is in those is kept in the feed and passed on, and shown nowhere.) So of all
that the Yjs update format v1 can say, this much is left (lib0 encoding: `u` is a variable-length unsigned integer):

    update  = 0 deletes                                       nothing written
            | 1  u:count  u:client  u:clock  item*count  deletes
    item    = 0x28  1  string:root  u8:1 … string:owner/key   value    first value of a key (parent and key spelled out)
            | 0xA8  u:client  u:clock                         value    next value of the key last written at that clock
    value   = 8  1  any                                       one JSON value, not null
    deletes = 0 | 1  u:client  u:ranges  (u:clock u:length)*  ascending; each clock is the live value of a key

`client` is the feed's everywhere and the first clock is the feed's next. Everything else is refused: other clients and their
keys, gaps, right origins, nested types, GC and Skip structs, XML, subdocuments, numbers that JSON has not, bytes left over.
The parser is iterative in structs, bounded in depth, and allocates nothing by a length it has not seen the bytes of.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import Final, NamedTuple, cast

from sudocode_coordination.core.facts import ROOTS, Root
from sudocode_coordination.core.wire import MAX_ENVELOPE_BYTES
from sudocode_coordination.model import Json, PeerId

MAX_DEPTH: Final = 8
"""Lists and objects in each other: deep nesting overflows native stacks, and no entry of ours needs more than four."""
MAX_KEY_BYTES: Final = 1_024
"""Of a key without its owner: a path of a file, with room."""
MAX_VALUE_BYTES: Final = 32 << 10
"""Of one encoded value: every value fits in one snapshot part, and a flush holds at least one."""
MAX_NODES: Final = 8_192
"""JSON values within one value: what bounds the memory that 32 KB can unfold to."""
MAX_SAFE_INT: Final = (1 << 53) - 1
"""Largest integer that JavaScript, and so Yjs, tells from its neighbours."""
MAX_LATER_ROOTS: Final = 16
"""Root maps in one feed that this version does not know: twice as many as there are."""
FORBIDDEN_NAME: Final = "__proto__"
"""An object key that would set the prototype in JavaScript clients."""
ITEM_OVERHEAD: Final = 64
"""More than the bytes that an item has around its key, owner and value."""

MASK_FIRST: Final = 0x28
MASK_NEXT: Final = 0xA8
_INT31: Final = (1 << 31) - 1
_ROOT_BY_NAME: Final[dict[bytes, Root]] = {root.encode(): root for root in ROOTS}
_LATER_ROOT: Final = re.compile(rb"[a-z][A-Za-z]{2,39}")
"""What one may be called."""
_float32 = struct.Struct(">f").unpack_from
_float64 = struct.Struct(">d").unpack_from


class GrammarError(ValueError):
    """The update is not one that the author of a feed writes."""


def client_id(owner: PeerId, epoch: int) -> int:
    """The Yjs client id of a feed: 1 to 2^53 - 1, and infeasible to aim at another feed's."""
    digest = hashlib.sha256(b"sudocode-coordination/client/1\0" + f"{epoch}/{owner}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) or 1


class Slot(NamedTuple):
    """A key of a feed: the clock of its last value, whether that is live, and about how many bytes it takes."""

    clock: int
    live: bool
    size_bytes: int


class FeedChange(NamedTuple):
    """What an update does to one key; value None: it is deleted."""

    root: Root
    key: str
    value: Json


class FeedState:
    """What must be known of a feed's past to judge its next update."""

    __slots__ = ("clock", "key_of", "later_roots", "live_bytes", "live_count", "slots")

    def __init__(self) -> None:
        self.clock = 0
        self.slots: dict[tuple[Root, str], Slot] = {}
        self.key_of: dict[int, tuple[Root, str]] = {}
        """Last clock of a key -> the key."""
        self.live_bytes = 0
        self.live_count = 0
        self.later_roots: frozenset[Root] = frozenset()
        """Names of root maps that are not in `ROOTS`."""

    def commit(self, step: Step) -> None:
        """Move past an update that `parse_update` accepted against this very state."""
        for (root, key, _), clock, size in zip(step.changes, step.clocks, step.sizes, strict=True):
            name = (root, key)
            old = self.slots.get(name)
            if old is not None and old.live:
                self.live_bytes -= old.size_bytes
                self.live_count -= 1
            if clock < 0:
                assert old is not None
                self.slots[name] = Slot(old.clock, False, 0)
                continue
            if old is not None:
                del self.key_of[old.clock]
            self.slots[name] = Slot(clock, True, size)
            self.key_of[clock] = name
            self.live_bytes += size
            self.live_count += 1
        self.clock = step.next_clock
        if step.later_roots:
            self.later_roots |= step.later_roots


class Step(NamedTuple):
    """An accepted update. `clocks` and `sizes` go with `changes`; a clock of -1 is a deletion."""

    changes: list[FeedChange]
    clocks: list[int]
    sizes: list[int]
    next_clock: int
    later_roots: frozenset[Root] = frozenset()
    """Those that are new."""


def _read_uint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length unsigned integer below 2^53, in its shortest form, and where it ends."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value = byte & 0x7F
    shift = 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 49:
            raise GrammarError("integer of more than 53 bits")
    if byte == 0 or value > MAX_SAFE_INT:
        raise GrammarError("integer not in its shortest form, or of more than 53 bits")
    return value, at


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length signed integer of up to 31 bits: larger ones travel as floats."""
    byte = data[at]
    at += 1
    if byte < 0x40:
        return byte, at
    value = byte & 0x3F
    negative = byte & 0x40
    shift = 6
    last = byte
    while last & 0x80:
        if shift > 27:
            raise GrammarError("integer of more than 31 bits")
        last = data[at]
        at += 1
        value |= (last & 0x7F) << shift
        shift += 7
    if (last == 0 and shift > 6) or value > _INT31 or (negative and not value):
        raise GrammarError("integer not in its shortest form, or of more than 31 bits")
    return (-value if negative else value), at


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    length = data[at]
    if length < 0x80:
        at += 1
    else:
        length, at = _read_uint(data, at)
    end = at + length
    if end > len(data):
        raise GrammarError("a string ends beyond the update")
    return data[at:end], end


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    length = data[at]
    if length < 0x80:  # as nearly all are
        end = at + 1 + length
        raw = data[at + 1 : end]
        if len(raw) == length:
            return raw.decode(), end
    raw, end = _read_bytes(data, at)
    return raw.decode(), end


def _number(value: float) -> int | float:
    """The number as JSON has it: whole ones are integers, whatever way they were encoded."""
    if value != value or value in (float("inf"), float("-inf")):
        raise GrammarError("a number that JSON has not")
    if value.is_integer() and -MAX_SAFE_INT <= value <= MAX_SAFE_INT:
        return int(value)
    return value


def _read_count(data: bytes, at: int, depth: int, budget: list[int]) -> tuple[int, int]:
    """Of the values in a list or an object, taken off what the whole value may have."""
    if depth >= MAX_DEPTH:
        raise GrammarError(f"nested deeper than {MAX_DEPTH}")
    count, at = _read_uint(data, at)
    budget[0] -= count
    if budget[0] < 0:
        raise GrammarError(f"a value of more than {MAX_NODES} parts")
    return count, at


def _read_value(data: bytes, at: int, depth: int, budget: list[int]) -> tuple[Json, int]:
    tag = data[at]
    at += 1
    if tag == 119:
        return _read_text(data, at)
    if tag == 125:
        return _read_int(data, at)
    if tag == 118:
        count, at = _read_count(data, at, depth, budget)
        found: dict[str, Json] = {}
        for _ in range(count):
            name, at = _read_text(data, at)
            if name in found or name == FORBIDDEN_NAME:
                raise GrammarError("an object key twice, or a forbidden one")
            if data[at] == 119:  # most are texts
                found[name], at = _read_text(data, at + 1)
            else:
                found[name], at = _read_value(data, at, depth + 1, budget)
        return found, at
    if tag == 117:
        count, at = _read_count(data, at, depth, budget)
        items: list[Json] = []
        for _ in range(count):
            item, at = _read_value(data, at, depth + 1, budget)
            items.append(item)
        return items, at
    if tag == 120:
        return True, at
    if tag == 121:
        return False, at
    if tag == 126:
        return None, at
    if tag == 123:
        return _number(_float64(data, at)[0]), at + 8
    if tag == 124:
        return _number(_float32(data, at)[0]), at + 4
    raise GrammarError(f"a value of kind {tag}")


class _Parser:
    __slots__ = ("client", "data", "later_roots", "overwritten", "prefix", "state", "step", "written")

    def __init__(self, state: FeedState, owner: PeerId, client: int, data: bytes) -> None:
        self.state = state
        self.client = client
        self.prefix = f"{owner}/".encode()
        self.data = data
        self.step = Step([], [], [], 0)
        self.written: set[tuple[Root, str]] = set()
        self.overwritten: set[int] = set()
        self.later_roots: set[Root] = set()

    def parse(self) -> Step:
        data, clock = self.data, self.state.clock
        sections, at = _read_uint(data, 0)
        if sections > 1:
            raise GrammarError("structs of several clients")
        if sections:
            count, at = _read_uint(data, at)
            at = self.expect_client(at)
            first, at = _read_uint(data, at)
            if first != clock:
                raise GrammarError(f"clock {first} where {clock} comes next")
            if count == 0 or count > len(data):
                raise GrammarError("a section without structs, or of more than there are bytes")
            for _ in range(count):
                at = self.item(at, clock)
                clock += 1
            if clock > MAX_SAFE_INT:
                raise GrammarError("clock of more than 53 bits")
        at = self.deletes(at)
        if at != len(data):
            raise GrammarError("bytes left over")
        return Step(self.step.changes, self.step.clocks, self.step.sizes, clock, frozenset(self.later_roots))

    def expect_client(self, at: int) -> int:
        client, at = _read_uint(self.data, at)
        if client != self.client:
            raise GrammarError(f"client {client} in the feed of {self.client}")
        return at

    def item(self, at: int, clock: int) -> int:
        data, state = self.data, self.state
        mask = data[at]
        if mask == MASK_NEXT:
            at = self.expect_client(at + 1)
            origin, at = _read_uint(data, at)
            known = state.key_of.get(origin)
            if known is None:
                raise GrammarError(f"origin {origin} is no key's last value")
            name = known
            self.overwritten.add(origin)
        elif mask == MASK_FIRST:
            if data[at + 1] != 1:
                raise GrammarError("a parent that is no root map")
            raw, at = _read_bytes(data, at + 2)
            root = _ROOT_BY_NAME.get(raw)
            if root is None:
                root = self.later_root(raw)
            raw, at = _read_bytes(data, at)
            if not raw.startswith(self.prefix) or not 0 < len(raw) - len(self.prefix) <= MAX_KEY_BYTES:
                raise GrammarError("a key that is not the owner's, or too long")
            name = (root, raw[len(self.prefix) :].decode())
            if name in state.slots:
                raise GrammarError("a key begun twice")
        else:
            raise GrammarError(f"a struct of kind {mask:#x}")
        if name in self.written:
            raise GrammarError("a key written twice in one update")
        self.written.add(name)
        return self.content(at, clock, name)

    def later_root(self, raw: bytes) -> Root:
        if not _LATER_ROOT.fullmatch(raw):
            raise GrammarError("an unknown root map, of no usual name")
        root = cast(Root, raw.decode())  # the type has the names of this version
        if root not in self.state.later_roots:
            self.later_roots.add(root)
            if len(self.later_roots) + len(self.state.later_roots) > MAX_LATER_ROOTS:
                raise GrammarError(f"more than {MAX_LATER_ROOTS} unknown root maps")
        return root

    def content(self, at: int, clock: int, name: tuple[Root, str]) -> int:
        data = self.data
        if data[at] != 1:
            raise GrammarError("content of several values, or none")
        value, end = _read_value(data, at + 1, 0, [MAX_NODES - 1])
        if value is None or end - at > MAX_VALUE_BYTES:
            raise GrammarError("a null, or a value that is too large")
        self.step.changes.append(FeedChange(name[0], name[1], value))
        self.step.clocks.append(clock)
        self.step.sizes.append(end - at + 4 * len(name[1]) + len(self.prefix) + ITEM_OVERHEAD)
        return end

    def deletes(self, at: int) -> int:
        data, state = self.data, self.state
        clients, at = _read_uint(data, at)
        if not clients:
            return at
        if clients > 1:
            raise GrammarError("deletes of several clients")
        at = self.expect_client(at)
        ranges, at = _read_uint(data, at)
        past = 0
        for _ in range(ranges):
            start, at = _read_uint(data, at)
            length, at = _read_uint(data, at)
            if start < past or not 0 < length <= state.clock:
                raise GrammarError("delete ranges that overlap, are empty or reach beyond the feed")
            past = start + length
            for clock in range(start, past):
                name = state.key_of.get(clock)
                if name is None or not state.slots[name].live:
                    raise GrammarError(f"a delete of {clock}, which is no live value")
                if clock not in self.overwritten:
                    self.step.changes.append(FeedChange(name[0], name[1], None))
                    self.step.clocks.append(-1)
                    self.step.sizes.append(0)
        return at


def parse_update(state: FeedState, owner: PeerId, client: int, update: bytes) -> Step:
    """What the update does, without doing it; `state.commit(step)` moves on.

    Raises:
        GrammarError: it is not one that the feed's author may write next.
    """
    if len(update) > MAX_ENVELOPE_BYTES:
        raise GrammarError(f"{len(update)} bytes, {MAX_ENVELOPE_BYTES} allowed")
    try:
        return _Parser(state, owner, client, update).parse()
    except IndexError:
        raise GrammarError("it ends too early") from None
    except struct.error:
        raise GrammarError("it ends within a number") from None
    except UnicodeDecodeError:
        raise GrammarError("text that is no UTF-8") from None
