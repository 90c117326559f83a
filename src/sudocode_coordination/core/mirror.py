"""The shared document as one Yjs document with one writer, for clients that keep it for long.

The document of the feeds (`core/document.py`) can't be given to such a client: a feed begins anew now and then, with another Yjs
client id, and a Yjs document never forgets what the one before has written. So whoever serves such clients writes what is
there into a document of its own, under the same root maps and keys, and only ever adds to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from sudocode_coordination.core.document import Document, same_json
from sudocode_coordination.core.facts import ROOTS, Root
from sudocode_coordination.core.grammar import FeedChange, FeedState, Step
from sudocode_coordination.core.writer import Write, encode_update, encode_value
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Json

GROWN_BYTES: Final = 8 << 20
"""So much may be written before a new document is thought of: a day of many agents, and nothing to load for a client."""
GROWN_FACTOR: Final = 8
"""How many times what is alive may have been written before a new one is begun."""

Name = tuple[Root, str]
"""Root map and `<owner>/<key>`."""


class Change(NamedTuple):
    """One entry; value None: it is gone."""

    root: str
    name: str
    value: Json


class Mirror:
    """What is in it only changes by `change`.

    Args:
        client_id: of its writer, 1 to 2^53 - 1, and never used before.
    """

    def __init__(self, client_id: int) -> None:
        self.client_id = client_id
        self._state = FeedState()
        self._content: dict[Name, Json] = {}
        self._document = Document(lambda: ())
        self._document.state_vector()  # makes it: from here on it takes updates
        self._written_bytes = 0

    @property
    def clock(self) -> int:
        """How many values were written: what a client's state vector has of this writer, if it has everything."""
        return self._state.clock

    @property
    def overgrown(self) -> bool:
        """Whether most of what a new client would load is of the past."""
        return self._written_bytes > max(GROWN_BYTES, GROWN_FACTOR * self._state.live_bytes)

    def content(self) -> dict[Name, Json]:
        """Everything, in a dict of its own."""
        return dict(self._content)

    def become(self, entries: Iterable[Change]) -> bytes | None:
        """These are all entries there are: like `change`."""
        wanted = list(entries)
        names = {(change.root, change.name) for change in wanted}
        gone = [Change(root, name, None) for root, name in self._content if (root, name) not in names]
        return self.change([*gone, *wanted])

    def change(self, changes: Iterable[Change]) -> bytes | None:
        """Write them; the Yjs update that does it, or None if nothing changes. Root maps that are not known here are left out, and
        values that can't be written: a newer daemon may have them."""
        wanted: dict[Name, Json] = {}
        for change in changes:
            root = next((known for known in ROOTS if known == change.root), None)
            if root is not None:
                wanted[root, change.name] = change.value
        writes: list[Write] = []
        clocks: list[int] = []
        sizes: list[int] = []
        clock = self._state.clock
        for (root, name), value in wanted.items():
            if same_json(self._content.get((root, name)), value):
                continue
            try:
                encoded, clean = (None, None) if value is None else encode_value(value)
            except UsageError:
                continue
            writes.append(Write(root, name, encoded))
            if encoded is None:
                del self._content[root, name]
                clocks.append(-1)
                sizes.append(0)
            else:
                self._content[root, name] = clean
                clocks.append(clock)
                sizes.append(len(encoded) + len(name))
                clock += 1
        if not writes:
            return None
        update = encode_update(self._state, None, self.client_id, writes)
        changed = [FeedChange(write.root, write.key, self._content.get((write.root, write.key))) for write in writes]
        self._state.commit(Step(changed, clocks, sizes, clock))
        self._document.apply(update)
        self._written_bytes += len(update)
        return update

    def state_vector(self) -> bytes:
        """The Yjs state vector of all of it."""
        return self._document.state_vector()

    def lacking(self, clock: int) -> bytes:
        """The Yjs update for a client that has the writer's first `clock` values (of another writer's it needs none)."""
        known = bytearray((1,))
        for number in (self.client_id, min(max(clock, 0), self.clock)):
            while number > 0x7F:
                known.append(0x80 | number & 0x7F)
                number >>= 7
            known.append(number)
        return self._document.encode_state(bytes(known))
