"""Feeds: signed, in order, swapped whole, bounded. And their document, whichever way it came about."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.feeds import Pen, identity

from sudocode_coordination.core import feed as feed_module
from sudocode_coordination.core.facts import EntryChange
from sudocode_coordination.core.feed import (
    MAX_WAITING,
    NOTHING_MORE,
    FeedStore,
    Received,
    decode_envelope,
    encode_envelope,
)
from sudocode_coordination.core.io import ForgottenEpochs, ForgottenValue, StoredEnvelope, StoredValue
from sudocode_coordination.core.wire import MAX_ENVELOPE_BYTES, Envelope, Head
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import Json


def new_store() -> FeedStore:
    return FeedStore(identity("reader"))


def leases(store: FeedStore) -> dict[tuple[str, str], Json]:
    return {(owner, key): value for owner, key, value in store.document.entries("leases")}


def head_of(store: FeedStore, owner: str) -> tuple[int, int]:
    (head,) = [head for head in store.heads() if head.owner == owner]
    return head.epoch, head.seq


def test_an_envelope_shows_and_is_to_be_stored() -> None:
    store, pen = new_store(), Pen("a", epoch=5)
    envelope = pen.lease("x", {"n": 1})
    received = store.receive(envelope)
    assert received == Received(
        "applied",
        [
            ForgottenEpochs(owner=pen.owner, below=5),
            StoredEnvelope(owner=pen.owner, epoch=5, seq=1, data=encode_envelope(envelope)),
        ],
        (EntryChange(root="leases", key="x", value={"n": 1}),),
    )
    assert leases(store) == {(pen.owner, "x"): {"n": 1}}
    assert store.receive(envelope).verdict == "known"
    assert store.heads() == [Head(pen.owner, 5, 1)]


def test_order_is_restored() -> None:
    store, pen = new_store(), Pen("a")
    envelopes = [pen.lease("x", n) for n in range(20)]
    order = list(envelopes)
    Random(3).shuffle(order)
    changes = [change.value for envelope in order for change in store.receive(envelope).changes]
    assert changes == list(range(20))
    assert store._waiting == {}
    assert store._waiting_bytes == 0


@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_any_order_with_repetition_ends_in_the_same_state(random: Random, epochs: int) -> None:
    pens = [Pen("a"), Pen("b")]
    envelopes: list[Envelope] = []
    for epoch in range(1, epochs + 1):
        for pen in pens:
            pen.begin(epoch, parts=2)
            envelopes += [pen.lease(f"k{random.randrange(3)}", random.choice([None, epoch, n])) for n in range(6)]
    in_order, shuffled = new_store(), new_store()
    for envelope in envelopes:
        in_order.receive(envelope)
    arrivals = envelopes * 2
    random.shuffle(arrivals)
    for envelope in arrivals:
        shuffled.receive(envelope)
    # What was dropped meanwhile comes once more, as an answer would bring it.
    for envelope in envelopes:
        shuffled.receive(envelope)
    assert leases(in_order) == leases(shuffled)
    assert in_order.heads() == shuffled.heads()
    assert in_order.document.shared_content() == shuffled.document.shared_content()
    assert in_order.total_bytes == shuffled.total_bytes
    assert in_order.problems() == shuffled.problems() == []


def test_later_ones_wait_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    store, pen = new_store(), Pen("a")
    envelopes = [pen.lease("x", n) for n in range(MAX_WAITING + 10)]
    for envelope in envelopes[1:]:
        assert store.receive(envelope).verdict == "gap"
    assert len(store._waiting[pen.owner]) == MAX_WAITING
    assert len(store.receive(envelopes[0]).changes) == MAX_WAITING + 1
    assert head_of(store, pen.owner) == (1, MAX_WAITING + 1)

    monkeypatch.setattr(feed_module, "MAX_WAITING_BYTES", 1_000)
    for name in ("b", "c", "d"):
        other = Pen(name)
        other.lease("x", "y" * 300)
        assert store.receive(other.lease("x", "z" * 300)).verdict == "gap"
    assert store._waiting_bytes <= 1_000


def test_forged_envelopes_are_refused() -> None:
    store, pen, thief = new_store(), Pen("a"), Pen("thief")
    good = pen.lease("x", 1)
    other = thief.lease("x", 1)
    forged = [
        msgspec.structs.replace(good, signature=other.signature),
        msgspec.structs.replace(good, signature=b""),
        msgspec.structs.replace(good, epoch=2),
        msgspec.structs.replace(good, seq=2),
        msgspec.structs.replace(good, parts=2),
        msgspec.structs.replace(good, owner=thief.owner),
        msgspec.structs.replace(good, owner="no peer id"),
        msgspec.structs.replace(good, update=good.update + b"\0"),
    ]
    for envelope in forged:
        assert store.receive(envelope).verdict == "refused"
    assert store.owners() == []
    assert store.problems() == ["?: an envelope with a wrong signature (8 times)"]
    assert store.receive(good).verdict == "applied"
    assert store.receive(msgspec.structs.replace(pen.lease("x", 2), signature=other.signature)).verdict == "refused"
    assert leases(store) == {(pen.owner, "x"): 1}


def test_a_signature_is_for_nothing_else() -> None:
    """The bytes that are signed begin with what they are for."""
    pen = Pen("a")
    envelope = pen.lease("x", 1)
    assert not pen.keyring.verify(pen.owner, encode_envelope(msgspec.structs.replace(envelope, signature=b"")), envelope.signature)


def test_a_snapshot_is_shown_when_all_its_parts_are_there() -> None:
    store, pen = new_store(), Pen("a")
    for envelope in (pen.write({("leases", "same"): 1, ("leases", "old"): 1, ("leases", "changed"): 1, ("activeWork", "w"): 1}),):
        store.receive(envelope)
    pen.begin(9, parts=3)
    parts = [pen.lease("same", 1), pen.lease("changed", True), pen.lease("new", 1)]
    before = leases(store)
    for part in (parts[2], parts[0]):
        received = store.receive(part)
        assert (received.operations, received.changes) == ([], ())
        assert leases(store) == before
    assert head_of(store, pen.owner) == (9, 1)
    assert store.settled(pen.owner, 1, 1)
    assert not store.settled(pen.owner, 9, 1)
    received = store.receive(parts[1])
    assert received.verdict == "applied"
    assert received.operations[0] == ForgottenEpochs(owner=pen.owner, below=9)
    assert [op.seq for op in received.operations if isinstance(op, StoredEnvelope)] == [1, 2, 3]
    # Only what really changed; true is not 1.
    assert set(received.changes) == {
        EntryChange(root="leases", key="old", value=None),
        EntryChange(root="activeWork", key="w", value=None),
        EntryChange(root="leases", key="changed", value=True),
        EntryChange(root="leases", key="new", value=1),
    }
    assert received.changes[-2].value is True or received.changes[-1].value is True
    assert store.settled(pen.owner, 9, 3)
    assert len(store.document.shared_content()["leases"]) == 3


def test_an_older_epoch_is_ignored() -> None:
    store, pen = new_store(), Pen("a", epoch=5)
    old = pen.lease("x", "old")
    pen.begin(6)
    store.receive(pen.lease("x", "new"))
    assert store.receive(old).verdict == "old"
    assert leases(store) == {(pen.owner, "x"): "new"}


def test_a_newer_epoch_replaces_one_that_is_not_complete() -> None:
    store, pen = new_store(), Pen("a")
    store.receive(pen.lease("x", 1))
    pen.begin(2, parts=2)
    store.receive(pen.lease("x", 2))
    size = store.total_bytes
    pen.begin(3, parts=1)
    store.receive(pen.lease("x", 3))
    assert leases(store) == {(pen.owner, "x"): 3}
    assert store.total_bytes < size
    assert store._staged == {}


def test_an_empty_snapshot_clears() -> None:
    store, pen = new_store(), Pen("a")
    store.receive(pen.lease("x", 1))
    pen.begin(2)
    assert store.receive(pen.write({})).changes == (EntryChange(root="leases", key="x", value=None),)
    assert store.document.entry_count == 0


def test_an_owner_who_says_two_things_is_found_out() -> None:
    store, pen = new_store(), Pen("a")
    store.receive(pen.lease("x", 1))
    twin = Pen("a")
    assert store.receive(twin.lease("x", 2)).verdict == "known"
    assert leases(store) == {(pen.owner, "x"): 1}
    (problem,) = store.problems()
    assert problem == f"{pen.owner}: signed two different envelopes for epoch 1, number 1"
    # Somebody else's forgery of the kind is no proof.
    store.receive(msgspec.structs.replace(twin.lease("x", 3), seq=1))
    assert problem in store.problems()
    assert "?: an envelope with a wrong signature" in store.problems()


def test_a_signed_update_against_the_grammar_stops_that_feed_alone() -> None:
    store, pen, other = new_store(), Pen("a"), Pen("b")
    first = pen.lease("x", 1)
    store.receive(first)
    bad = pen.sign(2, b"\1\1garbage")
    assert store.receive(bad).verdict == "refused"
    assert store.receive(pen.sign(3, b"\0\0")).verdict == "refused"
    assert store.receive(other.lease("x", 1)).verdict == "applied"
    assert leases(store) == {(pen.owner, "x"): 1, (other.owner, "x"): 1}
    # Nobody is asked for the rest of it, and nobody waits for it.
    assert head_of(store, pen.owner) == (1, NOTHING_MORE)
    assert store.settled(pen.owner, 1, 3)
    assert [envelope.seq for envelope in store.missing(pen.owner, None)] == [1]
    assert len(store.problems()) == 1
    pen.begin(2)
    assert store.receive(pen.lease("y", 1)).verdict == "applied"


def test_parts_must_agree() -> None:
    store, pen = new_store(), Pen("a")
    store.receive(pen.lease("x", 1))
    assert store.receive(pen.sign(2, b"\0\0", parts=2)).verdict == "refused"
    assert new_store().receive(pen.sign(1, b"\0\0", parts=0)).verdict == "refused"


def test_a_feed_and_all_feeds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store()
    monkeypatch.setattr(feed_module, "MAX_FEED_BYTES", 10_000)
    monkeypatch.setattr(feed_module, "MAX_TOTAL_BYTES", 25_000)
    verdicts = {}
    for name in "abcd":
        pen = Pen(name)
        verdicts[name] = [store.receive(pen.lease(f"k{n}", "x" * 1_000)).verdict for n in range(10)]
    assert verdicts["a"] == verdicts["b"] == ["applied"] * 8 + ["refused"] * 2
    assert "full" in verdicts["c"]
    assert "applied" not in verdicts["d"]
    assert store.total_bytes <= 25_000
    # Room comes back when somebody is forgotten.
    store.forget(Pen("a").owner)
    late = Pen("e")
    assert store.receive(late.lease("x", 1)).verdict == "applied"


def test_the_number_of_feeds_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_HEADS", 3)
    store = new_store()
    assert [store.receive(Pen(name).lease("x", 1)).verdict for name in "abcde"] == ["applied"] * 3 + ["full"] * 2
    assert store.problems()


def test_forgetting_keeps_the_epoch() -> None:
    store, pen = new_store(), Pen("a", epoch=7)
    envelope = pen.lease("x", 1)
    store.receive(envelope)
    operations, changes = store.forget(pen.owner)
    assert operations == [ForgottenEpochs(owner=pen.owner, below=8), StoredValue(space="epochs", key=pen.owner, data=b"7")]
    assert changes == (EntryChange(root="leases", key="x", value=None),)
    assert (store.total_bytes, store.owners(), store.document.entry_count) == (0, [], 0)
    assert store.heads() == [Head(pen.owner, 7, NOTHING_MORE)]
    assert store.receive(envelope).verdict == "old"
    assert store.settled(pen.owner, 7, 100)
    assert store.forget(pen.owner) == ([], ())
    pen.begin(8)
    back = store.receive(pen.lease("x", 2))
    assert back.verdict == "applied"
    assert ForgottenValue(space="epochs", key=pen.owner) in back.operations
    assert store.heads() == [Head(pen.owner, 8, 1)]


def test_forgotten_epochs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_HEADS", 3)
    store = new_store()
    for n, name in enumerate("abcde"):
        pen = Pen(name, epoch=n + 1)
        store.receive(pen.lease("x", 1))
        operations, _ = store.forget(pen.owner)
    assert isinstance(operations[-1], ForgottenValue)
    assert [store.forgotten_epoch(Pen(name).owner) for name in "abcde"] == [-1, -1, 3, 4, 5]


def test_what_somebody_lacks() -> None:
    store, pen = new_store(), Pen("a", epoch=4)
    for n in range(3):
        store.receive(pen.lease("x", n))
    cases: list[tuple[tuple[int, int] | None, list[int]]] = [
        (None, [1, 2, 3]),
        ((3, 9), [1, 2, 3]),
        ((4, 0), [1, 2, 3]),
        ((4, 2), [3]),
        ((4, 3), []),
        ((4, 9), []),
        ((4, NOTHING_MORE), []),
        ((5, 0), []),
    ]
    for known, expected in cases:
        assert [envelope.seq for envelope in store.missing(pen.owner, known)] == expected
    assert store.missing("nobody", None) == []


def test_envelopes_on_disk_and_in_gossip() -> None:
    envelope = Pen("a").lease("x", 1)
    assert decode_envelope(encode_envelope(envelope)) == envelope
    for data in (b"", b"\xc1", encode_envelope(envelope)[:-1], b"\x91" * 5_000, b"\0" * (MAX_ENVELOPE_BYTES + 2_000)):
        with pytest.raises(ProtocolError):
            decode_envelope(data)
