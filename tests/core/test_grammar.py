"""Updates of feeds: what their authors write is accepted and read as the CRDT library reads it; all else is refused."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Doc, Map
from tests.core.grammar_bench import CLIENT, OWNER, Author, Writes, content, new_doc, texts, values, whole, writes
from tests.core.test_grammar_attacks import begun

from sudocode_coordination.core.facts import ROOTS, Root
from sudocode_coordination.core.grammar import (
    MAX_DEPTH,
    MAX_SAFE_INT,
    MAX_VALUE_BYTES,
    FeedChange,
    FeedState,
    GrammarError,
    client_id,
    parse_update,
)
from sudocode_coordination.core.writer import Write, batches, encode_update, encode_value
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Json

# --- what authors write ---------------------------------------------------------------------------------------------------


@given(st.lists(writes, max_size=8))
def test_the_parser_and_the_library_read_the_same(history: list[Writes]) -> None:
    author, doc = Author(), new_doc()
    view: dict[tuple[Root, str], Json] = {}
    for step in history:
        update = encode_update(
            author.state, OWNER, CLIENT, [Write(r, k, None if v is None else encode_value(v)[0]) for (r, k), v in step.items()]
        )
        parsed = parse_update(author.state, OWNER, CLIENT, update)
        author.state.commit(parsed)
        for change in parsed.changes:
            if change.value is None:
                del view[change.root, change.key]
            else:
                view[change.root, change.key] = change.value
        doc.apply_update(update)
        expected = {(root, f"{OWNER}/{key}"): value for (root, key), value in view.items()}
        assert texts(sorted(map(list, content(doc).items()))) == texts(sorted(map(list, expected.items())))
    assert author.state.live_count == len(view)


@given(values)
def test_a_value_comes_back_as_it_was_cleaned(value: Json) -> None:
    encoded, clean = encode_value(value)
    author = Author()
    update = encode_update(author.state, OWNER, CLIENT, [Write("leases", "k", encoded)])
    (change,) = parse_update(author.state, OWNER, CLIENT, update).changes
    assert texts(change.value) == texts(clean)
    assert whole(clean) == whole(value)
    assert encode_value(clean) == (encoded, clean)


def test_what_the_library_itself_writes_is_accepted() -> None:
    """A single writer of maps, through pycrdt: the grammar is that of Yjs, not of our own writer."""
    doc: Doc[Map[Json]] = Doc(client_id=CLIENT)
    updates: list[bytes] = []
    subscription = doc.observe(lambda event: updates.append(bytes(event.update)))
    leases, work = doc.get("leases", type=Map), doc.get("activeWork", type=Map)
    key = f"{OWNER}/k"
    with doc.transaction():
        leases[key] = {"n": 1, "f": 0.5, "big": 2**40, "list": [None, True, "é"]}
        work[key] = "x"
    leases[key] = [1]
    del leases[key]
    leases[key] = 2
    with doc.transaction():
        del leases[key]
        del work[key]
    state = FeedState()
    seen = []
    for update in updates:
        step = parse_update(state, OWNER, CLIENT, update)
        state.commit(step)
        seen += step.changes
    assert seen[:3] == [
        FeedChange("leases", "k", {"n": 1, "f": 0.5, "big": 2**40, "list": [None, True, "é"]}),
        FeedChange("activeWork", "k", "x"),
        FeedChange("leases", "k", [1]),
    ]
    assert (state.live_count, state.live_bytes) == (0, 0)
    doc.unobserve(subscription)


def test_the_same_writes_give_the_same_bytes() -> None:
    one, other = Author(), Author()
    assert one.write({("leases", "k"): {"b": 1, "a": 2}}) == other.write({("leases", "k"): {"a": 2.0, "b": 1.0}})


def test_many_entries_in_batches() -> None:
    author, doc = Author(), new_doc()
    all_writes = [Write("leases", f"é{n}", encode_value("x" * (n % 700))[0]) for n in range(1_000)]
    for batch in batches(OWNER, all_writes):
        update = encode_update(author.state, OWNER, CLIENT, batch)
        assert len(update) <= 60 << 10
        author.state.commit(parse_update(author.state, OWNER, CLIENT, update))
        doc.apply_update(update)
    assert len(content(doc)) == author.state.live_count == 1_000


def test_client_ids() -> None:
    ids = {client_id(f"owner-{n}", epoch) for n in range(100) for epoch in range(100)}
    assert len(ids) == 10_000
    assert 0 < min(ids) <= max(ids) <= MAX_SAFE_INT


# --- values that can't be written -----------------------------------------------------------------------------------------


def nested(depth: int) -> Json:
    value: Json = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        2**53,
        -(2**53),
        2**4000,
        math.nan,
        math.inf,
        -math.inf,
        "\ud800",
        {"a": "\udfff"},
        {"\ud800": 1},
        {1: "a"},
        {None: "a"},
        {"__proto__": {}},
        b"bytes",
        {1, 2},
        object(),
        nested(MAX_DEPTH + 1),
        nested(100_000),
        "x" * MAX_VALUE_BYTES,
        list(range(10_000)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_cannot_be_shared(value: Any) -> None:
    with pytest.raises(UsageError):
        encode_value(value)


@pytest.mark.parametrize(
    "value", [MAX_SAFE_INT, -MAX_SAFE_INT, nested(MAX_DEPTH), "x" * (MAX_VALUE_BYTES - 10), "", 0, False, [], {}, ()]
)
def test_values_at_the_limit(value: Json) -> None:
    author = Author()
    author.write({("leases", "k"): value})
    doc = new_doc()
    doc.apply_update(author.updates[0])
    assert content(doc) == {("leases", f"{OWNER}/k"): list(value) if value == () else value}


# --- mutations ------------------------------------------------------------------------------------------------------------

HISTORY: list[Writes] = [
    {("leases", "a"): {"agent": "x", "n": 1, "f": 0.5, "l": [None, True, -7]}, ("activeWork", "b"): "text"},
    {("leases", "a"): 2.25, ("issueUpdates", "#4"): [1, 2**40]},
    {("activeWork", "b"): None, ("leases", "c"): False},
    {("activeWork", "b"): {"é": ""}, ("leases", "a"): None, ("leases", "d"): "y" * 30},
]


def mutate(random: Random, update: bytes) -> bytes:
    data = bytearray(update)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        at = random.randrange(len(data)) if data else 0
        match random.randrange(6):
            case 0 if data:
                data[at] = random.randrange(256)
            case 1 if data:
                data[at] ^= 1 << random.randrange(8)
            case 2 if data:
                del data[at : at + random.randint(1, 3)]
            case 3:
                data[at:at] = random.randbytes(random.randint(1, 3))
            case 4 if data:
                data[at] = (data[at] + random.choice((-1, 1))) % 256
            case _:
                end = random.randint(at, len(data))
                data[at:at] = data[at:end]
    return bytes(data)


def check_mutant(seed: int) -> bool:
    """Whether the mutant was accepted; if so, it must do to a real document just what the parser says."""
    random = Random(seed)
    author = Author()
    steps = random.randrange(len(HISTORY))
    for step in HISTORY[:steps]:
        author.write(step)
    update = encode_update(
        author.state,
        OWNER,
        CLIENT,
        [Write(r, k, None if v is None else encode_value(v)[0]) for (r, k), v in HISTORY[steps].items()],
    )
    mutant = mutate(random, update)
    try:
        step_taken = parse_update(author.state, OWNER, CLIENT, mutant)
    except GrammarError:
        return False
    doc = new_doc()
    for earlier in author.updates:
        doc.apply_update(earlier)
    expected = content(doc)
    doc.apply_update(mutant)
    for change in step_taken.changes:
        if change.root not in ROOTS:
            continue  # of a later version: in no map that anybody looks at
        if change.value is None:
            del expected[change.root, f"{OWNER}/{change.key}"]
        else:
            expected[change.root, f"{OWNER}/{change.key}"] = change.value
    assert texts(sorted(map(list, content(doc).items()))) == texts(sorted(map(list, expected.items())))
    # And the feed goes on from there as if nothing had been.
    author.state.commit(step_taken)
    after = author.write({("leases", "after"): 1, ("leases", "a"): 3})
    doc.apply_update(after)
    expected["leases", f"{OWNER}/after"] = 1
    expected["leases", f"{OWNER}/a"] = 3
    assert texts(sorted(map(list, content(doc).items()))) == texts(sorted(map(list, expected.items())))
    return True


@settings(max_examples=1_500)
@given(st.integers(0, 2**48))
def test_an_accepted_mutant_does_what_the_parser_says(seed: int) -> None:
    check_mutant(seed)


def test_some_mutants_are_accepted() -> None:
    """Else the test before would show nothing."""
    assert 20 < sum(check_mutant(seed) for seed in range(600)) < 500


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    try:
        parse_update(begun(), OWNER, CLIENT, data)
    except GrammarError:
        return
    assert data
