"""The view and the Yjs document are two forms of one content."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Doc, Map
from tests.core.feeds import Pen, identity

from sudocode_coordination.core.document import Document, same_json
from sudocode_coordination.core.facts import ROOTS, EntryChange
from sudocode_coordination.core.feed import FeedStore
from sudocode_coordination.model import Json


def new_document() -> Document:
    return Document(lambda: ())


def test_entries_come_in_order_of_owner_and_key() -> None:
    document = new_document()
    names = [(owner, key) for owner in "cab" for key in "zyx"]
    for owner, key in names:
        document.put(owner, "leases", key, owner + key)
    expected = [(owner, key, owner + key) for owner, key in sorted(names)]
    assert list(document.entries("leases")) == expected
    document.put("b", "leases", "y", None)
    document.put("b", "leases", "w", "bw")
    expected = sorted([entry for entry in expected if entry[:2] != ("b", "y")] + [("b", "w", "bw")])
    assert list(document.entries("leases")) == expected
    assert list(document.owner_entries("leases", "b")) == [entry[1:] for entry in expected if entry[0] == "b"]
    assert list(document.entries("activeWork")) == []
    assert document.entry_count == 9


def test_only_changes_are_changes() -> None:
    document = new_document()
    assert document.put("a", "leases", "k", None) is None
    assert document.put("a", "leases", "k", 1) == EntryChange(root="leases", key="k", value=1)
    version = document.version
    assert document.put("a", "leases", "k", 1) is None
    assert document.version == version
    assert document.put("a", "leases", "k", True) == EntryChange(root="leases", key="k", value=True)
    assert document.get("leases", "a", "k") is True
    assert document.put("a", "leases", "k", None) == EntryChange(root="leases", key="k", value=None)
    assert document.get("leases", "a", "k") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1, True),
        (1, True, False),
        ({"a": 1, "b": [0]}, {"b": [0], "a": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ([0], [False], False),
        ("x", "x", True),
        (None, None, True),
        (None, 0, False),
        ({}, [], False),
        (2**40, 2**40, True),
    ],
)
def test_equality_is_that_of_json(one: Json, other: Json, same: bool) -> None:
    assert same_json(one, other) is same


def test_a_yjs_client_reads_what_the_view_says() -> None:
    store = FeedStore(identity("reader"))
    a, b = Pen("a"), Pen("b")
    store.receive(a.write({("leases", "x"): {"n": 1, "big": 2**40}, ("activeWork", "w"): ["é", None]}))
    client: Doc[Map[Json]] = Doc()
    client.apply_update(store.document.encode_state())
    # Made now; from here on kept current, and only what is missing travels.
    store.receive(b.lease("x", 2))
    store.receive(a.lease("x", None))
    update = store.document.encode_state(client.get_state())
    assert len(update) < len(store.document.encode_state())
    client.apply_update(update)
    found = {root: dict(client.get(root, type=Map).to_py() or {}) for root in ROOTS}
    assert found["leases"] == {f"{b.owner}/x": 2}
    assert found["activeWork"] == {f"{a.owner}/w": ["é", None]}
    assert client.get_state() == store.document.state_vector()


def test_after_a_new_epoch_nothing_of_the_old_is_left() -> None:
    store, pen = FeedStore(identity("reader")), Pen("a")
    for n in range(50):
        store.receive(pen.lease("x", "y" * 500 + str(n)))
    large = len(store.document.encode_state())
    vector = store.document.state_vector()
    pen.begin(2)
    store.receive(pen.lease("x", 1))
    assert len(store.document.encode_state()) < 300 < large
    assert len(store.document.state_vector()) <= len(vector)
    assert store.document.shared_content()["leases"] == {f"{pen.owner}/x": 1}


@given(st.randoms(use_true_random=False))
def test_the_document_is_the_same_whenever_it_was_first_asked_for(random: Random) -> None:
    early, late = FeedStore(identity("reader")), FeedStore(identity("reader"))
    early.document.encode_state()
    pens = [Pen("a"), Pen("b")]
    for epoch in (1, 2):
        for pen in pens:
            pen.begin(epoch)
        for _ in range(random.randrange(10)):
            pen = random.choice(pens)
            envelope = pen.write({(random.choice(ROOTS), random.choice("xy")): random.choice([None, 1, "a", {"b": [0.5]}])})
            early.receive(envelope)
            late.receive(envelope)
            if random.random() < 0.2:
                early.document.encode_state()
    assert early.document.shared_content() == late.document.shared_content()
    for root in ROOTS:
        view = {f"{owner}/{key}": value for owner, key, value in late.document.entries(root)}
        assert late.document.shared_content()[root] == view
