"""An author of a feed, what a Yjs reader makes of it, and values to write: for the tests of the grammar."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from pycrdt import Doc, Map

from sudocode_coordination.core.facts import ROOTS, Root
from sudocode_coordination.core.grammar import (
    MAX_SAFE_INT,
    FeedState,
    client_id,
    parse_update,
)
from sudocode_coordination.core.writer import Write, encode_update, encode_value
from sudocode_coordination.model import Json

OWNER = "12D3KooWOwner"
CLIENT = client_id(OWNER, 1)
Writes = dict[tuple[Root, str], Json | None]


class Author:
    """Writes a feed; every update goes through the parser on its way into the state."""

    def __init__(self) -> None:
        self.state = FeedState()
        self.updates: list[bytes] = []

    def write(self, writes: Writes) -> bytes:
        encoded = [Write(root, key, None if v is None else encode_value(v)[0]) for (root, key), v in writes.items()]
        update = encode_update(self.state, OWNER, CLIENT, encoded)
        self.state.commit(parse_update(self.state, OWNER, CLIENT, update))
        self.updates.append(update)
        return update


def new_doc() -> Doc[Map[Json]]:
    doc: Doc[Map[Json]] = Doc(client_id=1)
    for root in ROOTS:
        doc.get(root, type=Map)
    return doc


def content(doc: Doc[Map[Json]]) -> dict[tuple[Root, str], Json]:
    """As a Yjs reader sees it, whole numbers as integers."""
    found: dict[tuple[Root, str], Json] = {}
    for root in ROOTS:
        shared = doc.get(root, type=Map)
        for key in list(shared.keys()):
            found[root, key] = whole(shared[key])
    return found


def whole(value: Json) -> Json:
    if isinstance(value, dict):
        return {k: whole(v) for k, v in value.items()}
    if isinstance(value, list):
        return [whole(v) for v in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_SAFE_INT:
        return int(value)
    return value


def texts(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INT, MAX_SAFE_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__proto__")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
).filter(lambda value: value is not None)
writes = st.dictionaries(
    st.tuples(st.sampled_from(ROOTS), st.sampled_from(["a", "b", "c/d", "é"])), st.none() | values, min_size=0, max_size=6
)
