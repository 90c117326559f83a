"""A pack by hand: what is new with a commit, folders as what differs from those that the remote has."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from sudocode_coordination.adapters.gitobjects import Made, Snapshot

_TYPES: Final = {"commit": 1, "tree": 2, "blob": 3}
_REF_DELTA: Final = 7
_FAST: Final = 1
"""Compression. The pack is read once, on this machine."""
_WORTH_BYTES: Final = 512
"""A smaller folder is sent as it is."""
_COPY_BYTES: Final = 0x10000
"""One instruction to copy takes as much, in all versions of the format."""
_INSERT_BYTES: Final = 0x7F
"""One instruction to insert takes as much."""

_BLOCK_BYTES: Final = 4_096
"""What is compared at once."""


def pack_of(made: Made, parent: Snapshot, algorithm: str) -> bytes:
    """The objects of a commit for somebody who has its parent.

    Args:
        made: the commit.
        parent: what it was made on.
        algorithm: of object ids.
    """
    parts = [b"PACK" + (2).to_bytes(4, "big") + len(made.objects).to_bytes(4, "big")]
    for name, (kind, content) in made.objects.items():
        base = made.before.get(bytes.fromhex(name))
        old = None if base is None else parent.trees.get(base)
        if base is None or old is None or len(content) < _WORTH_BYTES:
            parts += [_head(_TYPES[kind], len(content)), zlib.compress(content, _FAST)]
        else:
            difference = delta(old.raw, content)
            parts += [_head(_REF_DELTA, len(difference)), base, zlib.compress(difference, _FAST)]
    pack = b"".join(parts)
    return pack + hashlib.new(algorithm, pack, usedforsecurity=False).digest()


def _head(kind: int, size: int) -> bytes:
    """Type and size of an object: four bits of the size, then seven in each byte."""
    head = bytearray()
    byte = kind << 4 | size & 0x0F
    size >>= 4
    while size:
        head.append(byte | 0x80)
        byte = size & 0x7F
        size >>= 7
    head.append(byte)
    return bytes(head)


def delta(old: bytes, new: bytes) -> bytes:
    """How to make the one of the other: what both begin with, what is different, what both end with."""
    shorter = min(len(old), len(new))
    begin = _most(shorter, lambda start, stop: old[start:stop] == new[start:stop])
    ends = len(old), len(new)
    end = _most(shorter - begin, lambda start, stop: old[ends[0] - stop : ends[0] - start] == new[ends[1] - stop : ends[1] - start])
    copied = (*_copies(0, begin), *_inserts(new[begin : len(new) - end]), *_copies(len(old) - end, end))
    return b"".join((_size(len(old)), _size(len(new)), *copied))


def _most(limit: int, same: Callable[[int, int], bool]) -> int:
    """Up to where they are the same, at most `limit`: block by block, then by halves. Comparing pieces is what is fast here."""
    least = 0
    while least < limit and same(least, min(least + _BLOCK_BYTES, limit)):
        least = min(least + _BLOCK_BYTES, limit)
    limit = min(limit, least + _BLOCK_BYTES)
    while least < limit:
        middle = (least + limit + 1) // 2
        if same(least, middle):
            least = middle
        else:
            limit = middle - 1
    return least


def _size(size: int) -> bytes:
    """Seven bits in each byte, the lowest first."""
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def _copies(start: int, length: int) -> Iterator[bytes]:
    for at in range(start, start + length, _COPY_BYTES):
        size = min(_COPY_BYTES, start + length - at)
        # A bit for each byte of place and size that is there; a size of 64 KB is one of nothing.
        numbers = at.to_bytes(4, "little") + (size & 0xFFFF).to_bytes(2, "little")
        code = 0x80
        for bit, byte in enumerate(numbers):
            code |= bool(byte) << bit
        yield bytes([code, *(byte for byte in numbers if byte)])


def _inserts(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), _INSERT_BYTES):
        part = data[at : at + _INSERT_BYTES]
        yield bytes([len(part)]) + part
