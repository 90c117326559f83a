"""What all feeds say together: a plain view to read from, and the Yjs document of the same content.

The view comes from the grammar's values and is always current. The Yjs document serves clients that speak Yjs; it is made
when it is first asked for, then kept current, and made anew from the feeds after one of them went to a new epoch (a document
cannot forget a client). This module alone imports the CRDT library, and only bytes that the grammar accepted get there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
from pycrdt import Doc, Map

from sudocode_coordination.core.facts import ROOTS, EntryChange, Root
from sudocode_coordination.model import Json, PeerId

MAX_REMEMBERED: Final = 4_096
"""Latest changes whose names are kept for who follows the document; who is further behind gets everything."""

_canonical = msgspec.msgpack.Encoder(order="deterministic")


def same_json(one: Json, other: Json) -> bool:
    """Equal as JSON: unlike in Python, true is not 1."""
    return bool(one == other) and (type(one) is type(other) is str or _canonical.encode(one) == _canonical.encode(other))


class Document:
    """The entries of all owners. `load` gives the updates of all feeds in an order that may be applied."""

    def __init__(self, load: Callable[[], Iterable[bytes]]) -> None:
        self._load = load
        self._view: dict[Root, dict[PeerId, dict[str, Json]]] = {root: {} for root in ROOTS}
        self._sorted: dict[tuple[Root, PeerId], list[str]] = {}
        self._doc: Doc[Map[Json]] | None = None
        self.entry_count = 0
        self.version = 0
        """Grows by one with every change of an entry."""
        self._changed: deque[tuple[Root, PeerId, str]] = deque(maxlen=MAX_REMEMBERED)

    # --- the view -------------------------------------------------------------------------------------------------------

    def get(self, root: Root, owner: PeerId, key: str) -> Json | None:
        """The value, or None. Not to be changed in place."""
        entries = self._view[root].get(owner)
        return None if entries is None else entries.get(key)

    def owner_entries(self, root: Root, owner: PeerId) -> Iterator[tuple[str, Json]]:
        """One owner's entries, by key."""
        entries = self._view[root].get(owner)
        if not entries:
            return
        keys = self._sorted.get((root, owner))
        if keys is None:
            keys = self._sorted[root, owner] = sorted(entries)
        for key in keys:
            yield key, entries[key]

    def entries(self, root: Root) -> Iterator[tuple[PeerId, str, Json]]:
        """All entries, by owner and key."""
        for owner in sorted(self._view[root]):
            for key, value in self.owner_entries(root, owner):
                yield owner, key, value

    def contents(self, owner: PeerId) -> dict[tuple[Root, str], Json]:
        """All of one owner's entries, in a dict of its own."""
        return {(root, key): value for root in ROOTS for key, value in self.owner_entries(root, owner)}

    def put(self, owner: PeerId, root: Root, key: str, value: Json | None) -> EntryChange | None:
        """Set (or, with None, remove) an entry in the view; None if that changes nothing. What is in maps that this version does
        not know is not in view."""
        owners = self._view.get(root)
        if owners is None:
            return None
        entries = owners.get(owner)
        old = None if entries is None else entries.get(key)
        if same_json(old, value):
            return None
        if value is None:
            assert entries is not None
            del entries[key]
            if not entries:
                del owners[owner]
            self.entry_count -= 1
        else:
            if entries is None:
                entries = owners[owner] = {}
            entries[key] = value
            self.entry_count += old is None
        if old is None or value is None:
            self._sorted.pop((root, owner), None)
        self.version += 1
        self._changed.append((root, owner, key))
        return EntryChange(root=root, key=key, value=value)

    def changed_since(self, version: int) -> list[tuple[Root, PeerId, str]] | None:
        """The entries that were changed after that version, each once, in order; None if that is not remembered."""
        count = self.version - version
        if not 0 <= count <= len(self._changed):
            return None
        return sorted({self._changed[-at] for at in range(1, count + 1)})

    def replace(self, owner: PeerId, contents: dict[tuple[Root, str], Json]) -> tuple[EntryChange, ...]:
        """Make these all of an owner's entries; only real changes come back, removals first."""
        gone = [name for name in self.contents(owner) if name not in contents]
        changes = [self.put(owner, root, key, None) for root, key in gone]
        changes += [self.put(owner, root, key, contents[root, key]) for root, key in sorted(contents)]
        return tuple(change for change in changes if change is not None)

    # --- the Yjs document -----------------------------------------------------------------------------------------------

    def apply(self, update: bytes) -> None:
        """Keep the Yjs document current with an update that the grammar accepted."""
        if self._doc is not None:
            self._doc.apply_update(update)

    def invalidate(self) -> None:
        """A feed has gone to a new epoch, or is forgotten: the Yjs document must be made anew."""
        self._doc = None

    def _current(self) -> Doc[Map[Json]]:
        if self._doc is None:
            # Client id 1 never writes: the document only collects.
            self._doc = Doc(client_id=1)
            for root in ROOTS:
                self._doc.get(root, type=Map)
            for update in self._load():
                self._doc.apply_update(update)
        return self._doc

    def encode_state(self, state_vector: bytes | None = None) -> bytes:
        """The whole document as one Yjs update v1, or what a trusted local client with that state vector lacks."""
        return self._current().get_update(state_vector)

    def state_vector(self) -> bytes:
        """The document's Yjs state vector."""
        return self._current().get_state()

    def shared_content(self) -> dict[str, dict[str, Json]]:
        """What a Yjs client reads: root -> `<owner>/<key>` -> value, with numbers as it sees them."""
        doc = self._current()
        found: dict[str, dict[str, Json]] = {}
        for root in ROOTS:
            shared = doc.get(root, type=Map)
            found[root] = {key: shared[key] for key in sorted(shared.keys())}
        return found
