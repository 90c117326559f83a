"""The strict table as values: what is in it, what operations make of it, and what nobody else can do to its readers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.strict_bench import TTL, body_of

from sudocode_coordination.core import strict_table
from sudocode_coordination.core.resources import overlap
from sudocode_coordination.core.strict_table import (
    META,
    Entry,
    NewerTableError,
    Table,
    apply,
    claim_at,
    encode_entry,
    fits,
    path_of,
    short_id,
)
from sudocode_coordination.core.wire import ClaimBody, Seen, StrictAcquire, StrictOp, StrictRelease, StrictRenew, StrictResult
from sudocode_coordination.model import Resource


def never(_: Entry) -> bool:
    return False


def acquire(claim: ClaimBody, ask: int = 1, *gone: Seen) -> StrictAcquire:
    return StrictAcquire(claim, ask, gone, "2026-01-01T00:00:00Z")


def after(table: Table, *ops: StrictOp, floor: int = 0) -> tuple[Table, list[StrictResult]]:
    applied = apply(table, ops, never, floor=floor)
    return table.changed(applied.changes), list(applied.results.values())


A, B = body_of("a", 1, "x.py", "y.py"), body_of("b", 1, "y.py", "z.py")


def test_all_of_a_claim_or_nothing() -> None:
    table, results = after(Table(), acquire(A), acquire(B))
    assert [r.kind for r in results] == ["done", "held"]
    assert list(table.entries) == [A.id]
    assert [h.claim for h in results[1].holders] == [A.id]
    assert [r.path for r in results[1].holders[0].resources] == ["x.py", "y.py"]


def test_every_grant_has_a_token_of_its_own_though_they_share_a_commit() -> None:
    claims = [body_of("a", n, f"{n}.py") for n in range(1, 6)]
    table, results = after(Table(), *map(acquire, claims))
    assert [r.token for r in results] == [1, 2, 3, 4, 5]
    assert table.revision == 5
    table, results = after(table, StrictRelease("a.1.op1", (claims[0].id,)))
    assert table.revision == 6
    table, results = after(table, acquire(body_of("b", 1, "1.py")))
    assert results[0].token == 7


def test_shared_ones_stand_together_and_an_agent_is_never_in_its_own_way() -> None:
    readers = [body_of(peer, 1, "x.py", mode="shared") for peer in "ab"]
    writer = body_of("a", 2, "x.py")
    table, results = after(Table(), *map(acquire, readers), acquire(writer))
    assert [r.kind for r in results] == ["done", "done", "held"]
    table, results = after(Table(), acquire(A), acquire(body_of("a", 2, "x.py")))
    assert [r.kind for r in results] == ["done", "done"]
    namesake = body_of("b", 2, "x.py", agent="agent-a")
    assert after(table, acquire(namesake))[1][0].kind == "held", "the same name on another peer is another agent"


def test_patterns_folders_and_case_count_as_they_do_elsewhere() -> None:
    table, _ = after(Table(), acquire(body_of("a", 1, "src/*.py")), acquire(body_of("a", 2, "Docs/", fold=True)))
    assert after(table, acquire(body_of("b", 1, "src/x.py")))[1][0].kind == "held"
    assert after(table, acquire(body_of("b", 1, "src/x.md")))[1][0].kind == "done"
    assert after(table, acquire(body_of("b", 1, "docs/x.md")))[1][0].kind == "held"
    assert after(table, acquire(body_of("b", 1, "SRC/x.py")))[1][0].kind == "done"
    assert after(table, acquire(body_of("b", 1, "SRC/x.py", fold=True)))[1][0].kind == "held"


def test_an_operation_that_is_sent_again_changes_nothing() -> None:
    table, first = after(Table(), acquire(A, 3))
    applied = apply(table, [acquire(A, 4)], never)
    assert not applied.changes
    assert applied.results[A.id] == first[0] == StrictResult("done", 1, 3)
    renew = StrictRenew("a.1.op1", (A.id,))
    table, _ = after(table, renew)
    assert table.entries[A.id].renewals == 1
    assert not apply(table, [renew], never).changes
    table, _ = after(table, StrictRelease("a.1.op2", (A.id,)))
    assert not apply(table, [StrictRelease("a.1.op2", (A.id,))], never).changes


def test_what_was_released_does_not_come_back_and_what_is_released_before_it_came_never_comes() -> None:
    table, _ = after(Table(), acquire(A), StrictRelease("a.1.op1", (A.id,)))
    assert after(table, acquire(A))[1][0].kind == "ended"
    table, _ = after(Table(), StrictRelease("a.1.op1", (A.id,)))
    assert after(table, acquire(A))[1][0].kind == "ended"


def test_renewal_says_which_are_gone_and_which_are_wanted_by_others() -> None:
    low, high = body_of("a", 2, "w.py"), body_of("b", 9, "w.py", priority=1)
    table, results = after(Table(), acquire(A), acquire(low), acquire(high))
    assert results[2].kind == "held"
    table, results = after(table, StrictRenew("a.1.op1", (A.id, low.id, "a.1.77")))
    assert [(lost.claim, lost.reason, lost.agent) for lost in results[0].lost] == [
        (low.id, "preempted", "agent-b"),
        ("a.1.77", "gone", ""),
    ]
    assert (table.entries[A.id].renewals, table.entries[low.id].renewals) == (1, 0)


def test_a_claim_that_could_not_be_granted_anyway_preempts_nobody() -> None:
    low, high = body_of("a", 1, "x.py"), body_of("b", 1, "y.py", priority=9)
    table, _ = after(Table(), acquire(low), acquire(high))
    applied = apply(table, [acquire(body_of("c", 1, "x.py", "y.py", priority=5))], never)
    assert not applied.changes


def test_take_over_needs_the_entry_as_it_was_seen() -> None:
    table, _ = after(Table(), acquire(A))
    renewed, _ = after(table, StrictRenew("a.1.op1", (A.id,)))
    seen = Seen(A.id, 1, 0)
    taken, results = after(table, acquire(B, 1, seen))
    assert (results[0].kind, results[0].token, list(taken.entries)) == ("done", 2, [B.id])
    assert after(renewed, acquire(B, 1, seen))[1][0].kind == "held"
    assert after(renewed, acquire(B, 1, Seen(A.id)))[1][0].kind == "done", "its owner has said that it ended"
    assert after(taken, acquire(A))[1][0].kind == "ended", "who was taken over does not get in again by the same claim"


def test_tokens_stay_above_the_floor_whatever_the_table_says() -> None:
    _, results = after(Table(), acquire(A), floor=1_000)
    assert results[0].token == 1_001


def test_a_full_table_grants_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_table, "MAX_ENTRIES", 2)
    claims = [body_of("a", n, f"{n}.py") for n in range(1, 4)]
    table, results = after(Table(), *map(acquire, claims))
    assert [r.kind for r in results] == ["done", "done", "full"]
    assert len(table) == 2


def test_remembered_operations_are_bounded_and_the_latest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_table, "MAX_DONE", 10)
    claims = [body_of("a", n, f"{n}.py") for n in range(1, 31)]
    table, _ = after(Table(), *map(acquire, claims))
    assert list(table.done) == [short_id(claim.id) for claim in claims[-10:]]


def test_a_table_of_a_later_version_is_not_written_to() -> None:
    table = Table().changed({META: b'{"version": 2, "revision": 7, "done": {}, "news": 1}'})
    with pytest.raises(NewerTableError, match="version 2"):
        apply(table, [acquire(A)], never)


# --- what others may have put there ---------------------------------------------------------------------------------------


def test_a_tree_comes_back_as_it_was_written() -> None:
    claim = ClaimBody("a.1.1", "ann", (Resource("file", "ä/*.py"), Resource("issue", "I-1")), "shared", -3, 17, 1_000, "why", True)
    applied = apply(Table(), [acquire(claim, 4)], never)
    table = Table().changed(applied.changes)
    entry = table.entries[claim.id]
    assert (entry.agent, entry.resources, entry.mode, entry.priority) == ("ann", claim.resources, "shared", -3)
    assert (entry.ttl_ms, entry.note, entry.fold, entry.ask, entry.token) == (1_000, "why", True, 4, 1)
    assert Table().changed({path_of(claim.id): encode_entry(entry)}).entries == table.entries
    assert not table.skipped
    assert sorted(applied.changes) == [path_of(claim.id), META]


def good(**changes: Any) -> bytes:
    entry = Entry(id="a.1.1", agent="a", resources=A.resources, mode="exclusive", priority=0, ttl_ms=TTL, token=3)
    return msgspec.json.encode(msgspec.to_builtins(entry) | changes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        good(id="a.1.2"),
        good(token=-1),
        good(token=1 << 60),
        good(resources=[]),
        good(resources=[["planet", "x"]]),
        good(mode="some"),
        good(ttlMs=1 << 50),
        good(note="x" * 200_000),
    ],
)
def test_a_file_that_is_no_lease_is_skipped_and_told(data: bytes) -> None:
    path = path_of("a.1.1")
    table = Table().changed({path: data, path_of("b.1.1"): good(id="b.1.1")})
    assert list(table.entries) == ["b.1.1"]
    assert list(table.skipped) == [path]
    assert not table.changed({path: None}).skipped
    assert table.changed({path: good()}).entries.keys() == {"a.1.1", "b.1.1"}


def test_files_in_other_places_are_left_alone() -> None:
    elsewhere = {"leases/g/a.1.1.json": good(), "leases/0/../../etc.json": good(), "README": b"hello", "leases/a.1.1.json": good()}
    wrong = "leases/" + ("0" if path_of("a.1.1")[7] != "0" else "1") + "/a.1.1.json"
    table = Table().changed({**elsewhere, wrong: good()})
    assert not table.entries
    assert claim_at(wrong) is None
    assert sorted(table.skipped) == sorted([wrong, "leases/0/../../etc.json"])


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version":1,"revision":-1}', b"x" * 300_000, b'{"version":1,"revision":1e400}'])
def test_a_damaged_head_costs_no_token_its_place(data: bytes) -> None:
    table, _ = after(Table(), acquire(A), acquire(body_of("a", 2, "w.py")))
    damaged = table.changed({META: data})
    assert damaged.damaged
    assert damaged.revision == 2
    mended, results = after(damaged, acquire(body_of("b", 5, "v.py")))
    assert results[0].token == 3
    assert not mended.damaged
    alone = Table().changed({META: data, path_of("a.1.1"): good(token=41)})
    assert after(alone, acquire(body_of("b", 5, "v.py")))[1][0].token == 42


def test_a_swollen_table_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_table, "MAX_ENTRIES", 3)
    monkeypatch.setattr(strict_table, "MAX_SKIPPED", 2)
    files: dict[str, bytes | None] = {path_of(f"a.1.{n}"): good(id=f"a.1.{n}") for n in range(10)}
    table = Table().changed(files)
    assert (len(table), len(table.skipped)) == (3, 2)


def test_what_others_would_skip_is_not_put_in() -> None:
    assert fits(A)
    assert not fits(msgspec.structs.replace(A, id="../../x.1.1"))
    assert not fits(msgspec.structs.replace(A, note="\0" * 30_000))
    longest = tuple(Resource("file", f"{n:03}" + "ä" * 1_000) for n in range(24))
    assert fits(msgspec.structs.replace(A, resources=longest, note='"' * 4_096))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([META, path_of("a.1.1"), path_of("b.1.1"), "x"]), st.binary() | st.none()))
def test_no_content_breaks_the_reader(files: dict[str, bytes | None]) -> None:
    table = Table().changed(files)
    after(table, acquire(A), StrictRenew("a.1.op1", (A.id,)), StrictRelease("a.1.op2", (A.id,)))


# --- laws -----------------------------------------------------------------------------------------------------------------

PATHS = ["a", "a/b", "a/*", "c.py", "*.py", "d/"]
claims = st.builds(
    lambda peer, n, paths, mode, priority, agent: body_of(peer, n, *paths, mode=mode, priority=priority, agent=agent),
    st.sampled_from("abc"),
    st.integers(1, 9),
    st.lists(st.sampled_from(PATHS), min_size=1, max_size=3, unique=True),
    st.sampled_from(["exclusive", "shared"]),
    st.integers(0, 2),
    st.sampled_from(["", "other"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["acquire", "renew", "release", "take"]), claims), max_size=30), st.integers(1, 4))
def test_whatever_is_done_no_two_clash_and_tokens_grow(steps: list[tuple[str, ClaimBody]], batch: int) -> None:
    table = Table()
    granted: dict[str, int] = {}
    first: dict[str, ClaimBody] = {}
    ops: list[StrictOp] = []
    for n, (what, wanted) in enumerate(steps):
        claim = first.setdefault(wanted.id, wanted)  # a claim never changes
        match what:
            case "acquire":
                ops.append(acquire(claim))
            case "take":
                ops.append(acquire(claim, 1, *(Seen(e.id, e.token, e.renewals) for e in table.entries.values())))
            case "renew":
                ops.append(StrictRenew(f"{claim.id}r{n}", (claim.id,)))
            case _:
                ops.append(StrictRelease(f"{claim.id}x{n}", (claim.id,)))
    greatest = 0
    for start in range(0, len(ops), batch):
        before = table
        part = ops[start : start + batch]
        applied = apply(table, part, never)
        table = table.changed(applied.changes)
        done = [op for op in part if isinstance(op, StrictAcquire) and applied.results[op.claim.id].kind == "done"]
        assert not apply(table, done, never).changes, "sent again, it changes nothing"
        new = sorted(e.token for id_, e in table.entries.items() if id_ not in before.entries)
        assert all(token > greatest for token in new)
        assert len(set(new)) == len(new)
        greatest = max([greatest, *(e.token for e in table.entries.values())])
        assert table.revision >= greatest
        assert table.revision > before.revision or not applied.changes
        for id_ in table.entries.keys() - before.entries.keys():
            assert id_ not in granted, "granted once"
            granted[id_] = table.entries[id_].token
        held = list(table.entries.values())
        for i, one in enumerate(held):
            for other in held[:i]:
                if (one.agent, one.owner) != (other.agent, other.owner) and "exclusive" in (one.mode, other.mode):
                    assert not any(overlap(a, b) for a in one.resources for b in other.resources)
        whole = Table().changed({path_of(e.id): encode_entry(e) for e in held})
        assert whole.entries == table.entries
