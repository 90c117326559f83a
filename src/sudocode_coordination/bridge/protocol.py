"""The messages of y-websocket (y-protocols 1.0: sync, awareness, auth) as bytes; what clients say is checked here.

    message   = 0 sync | 1 bytes:awareness | 2 0 string:reason (permission denied) | 3 (asks for the awareness)
    sync      = 0 bytes:state vector | 1 bytes:update (the answer) | 2 bytes:update
    awareness = u:count (u:client u:clock string:JSON)*

`u` is lib0's variable-length unsigned integer, `bytes` and `string` have their length in front.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from sudocode_coordination.errors import ProtocolError

MAX_UINT: Final = (1 << 53) - 1
"""Largest number that JavaScript tells from its neighbours."""
MAX_VECTOR: Final = 10_000
"""Writers in a client's state vector: a document of its own that has lived long may bring some."""
MAX_STATES: Final = 1_000
"""Awareness states in one message: a client repeats what it has heard of others."""
EMPTY_UPDATE: Final = b"\0\0"
"""A Yjs update that says nothing."""

_SYNC, _AWARENESS, _AUTH, _QUERY = 0, 1, 2, 3
_STEP_1, _STEP_2, _UPDATE = 0, 1, 2


class AsksDocument(NamedTuple):
    """Sync step 1: client id -> how much of its writing is known."""

    vector: dict[int, int]


class Writes(NamedTuple):
    """A Yjs update."""

    update: bytes


class State(NamedTuple):
    """What one Yjs client tells of itself; `json` null: it is gone."""

    client: int
    clock: int
    json: str


class Shows(NamedTuple):
    """Awareness."""

    states: tuple[State, ...]


class AsksAwareness(NamedTuple):
    """It wants all states."""


class Other(NamedTuple):
    """A message of a kind that is not known here."""


Said: TypeAlias = AsksDocument | Writes | Shows | AsksAwareness | Other


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def uint(self) -> int:
        value = shift = 0
        while True:
            if self._at >= len(self._data) or shift > 49:
                raise ProtocolError("a number is cut off or too large")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if value > MAX_UINT:
            raise ProtocolError("a number is too large")
        return value

    def bytes(self) -> bytes:
        size = self.uint()
        if size > len(self._data) - self._at:
            raise ProtocolError("a part is cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self) -> str:
        try:
            return self.bytes().decode()
        except UnicodeDecodeError:
            raise ProtocolError("text is not UTF-8") from None


def decode(data: bytes) -> Said:
    """What a client says.

    Raises:
        ProtocolError: it is no message of this protocol, or over a limit.
    """
    reader = _Reader(data)
    kind = reader.uint()
    if kind == _SYNC:
        step = reader.uint()
        if step == _STEP_1:
            return AsksDocument(_vector(reader.bytes()))
        if step in (_STEP_2, _UPDATE):
            return Writes(reader.bytes())
        raise ProtocolError(f"sync message of kind {step}")
    if kind == _AWARENESS:
        return Shows(_states(reader.bytes()))
    return AsksAwareness() if kind == _QUERY else Other()


def _vector(data: bytes) -> dict[int, int]:
    reader = _Reader(data)
    count = reader.uint()
    if count > MAX_VECTOR:
        raise ProtocolError(f"a state vector of {count} writers, {MAX_VECTOR} are allowed")
    return {reader.uint(): reader.uint() for _ in range(count)}


def _states(data: bytes) -> tuple[State, ...]:
    reader = _Reader(data)
    count = reader.uint()
    if count > MAX_STATES:
        raise ProtocolError(f"{count} awareness states, {MAX_STATES} are allowed")
    return tuple(State(reader.uint(), reader.uint(), reader.text()) for _ in range(count))


def _uint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def _with_length(data: bytes) -> bytes:
    return _uint(len(data)) + data


def encode_answer(update: bytes) -> bytes:
    """Sync step 2: what a client lacks. With it, the client counts as synced."""
    return bytes((_SYNC, _STEP_2)) + _with_length(update)


def encode_news(update: bytes) -> bytes:
    """A change."""
    return bytes((_SYNC, _UPDATE)) + _with_length(update)


def encode_awareness(states: Iterable[State]) -> bytes:
    """What these Yjs clients tell of themselves."""
    shown = list(states)
    body = b"".join(_uint(state.client) + _uint(state.clock) + _with_length(state.json.encode()) for state in shown)
    return bytes((_AWARENESS,)) + _with_length(_uint(len(shown)) + body)


def encode_denied(reason: str) -> bytes:
    """A write was not taken. Clients show the reason to their developers."""
    return bytes((_AUTH, 0)) + _with_length(reason.encode())
