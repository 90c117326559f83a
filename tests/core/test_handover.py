"""What a holder leaves behind, and how the next one gets it: with the grant, whatever arrives first."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec
import pytest
from tests.core.lease_bench import WALL_MS, Bench, a_body, a_claim, any_order, every_order, file

from sudocode_coordination.core.facts import EntryChange
from sudocode_coordination.core.lease_history import MAX_AHEAD_MS, MAX_TOLD
from sudocode_coordination.core.wire import End, Left
from sudocode_coordination.model import Handover, Now, Resource

ONE, TWO, THREE = "1" * 40, "2" * 40, "3" * 40


def handed(bench: Bench, asked: int) -> str | None:
    """The commit that came with the answer."""
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.lease is not None
    return answer.lease.handover.commit if answer.lease.handover else None


def held_by_alice(*names: str, paths: tuple[str, ...] = ("a.py",)) -> Bench:
    bench = Bench("alice", *names)
    bench.asks("alice", *paths)
    bench.settles()
    return bench


def test_what_is_left_behind_comes_with_the_next_grant() -> None:
    bench = held_by_alice("bob")
    bench.releases("alice", "a.py", commit=ONE, branch="topic")
    bench.settles()
    asked = bench.asks("bob", "a.py")
    bench.settles()
    expected = Handover(commit=ONE, branch="topic", agent_id="agent-of-alice", at="2027-01-15T08:00:00.000Z")
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.lease is not None
    assert answer.lease.handover == expected
    (lease,) = bench.of("bob").leases(bench.instant, "agent-of-bob")
    assert lease.handover == expected
    assert bench["bob"].told("lease-acquired")[-1]["lease"]["handover"] == msgspec.to_builtins(expected)


def test_everybody_sees_what_a_holder_was_handed() -> None:
    bench = held_by_alice("bob", "carol")
    bench.releases("alice", "a.py", commit=ONE)
    bench.settles()
    bench.asks("bob", "a.py")
    bench.settles()
    (lease,) = bench.of("carol").leases(bench.instant)
    assert (lease.agent_id, lease.handover and lease.handover.commit) == ("agent-of-bob", ONE)


@pytest.mark.parametrize("names", [("bob",), ("bob", "carol")])
def test_a_waiter_that_is_woken_has_it_already_in_every_order(names: tuple[str, ...]) -> None:
    waiting: dict[str, int] = {}

    def scene() -> Bench:
        bench = held_by_alice(*names)
        for name in names:
            waiting[name] = bench.asks(name, "a.py", wait_ms=0)
            bench.settles()
        bench.releases("alice", "a.py", commit=ONE, branch="b")
        return bench

    orders = 0
    for bench in every_order(scene):  # not one written entry arrives: the end itself must say it
        orders += 1
        assert handed(bench, waiting["bob"]) == ONE
    assert orders >= len(names)


def test_a_release_that_crosses_the_asking_comes_with_the_grant_in_every_order() -> None:
    asked = 0

    def scene() -> Bench:
        nonlocal asked
        bench = held_by_alice("bob", "carol")
        asked = bench.asks("bob", "a.py", wait_ms=0)
        bench.plans_to("alice", lambda: bench.releases("alice", "a.py", commit=ONE))
        return bench

    for bench in every_order(scene):
        assert handed(bench, asked) == ONE


def test_it_is_handed_on_from_agent_to_agent_of_one_clone() -> None:
    bench = Bench("alice")
    bench.asks("alice", "a.py", agent="one")
    waiting = bench.asks("alice", "a.py", agent="two", wait_ms=0)
    bench.releases("alice", "a.py", agent="one", commit=ONE)
    assert handed(bench, waiting) == ONE


def test_the_last_one_counts() -> None:
    bench = Bench("alice", "bob", "carol")
    for name, commit in (("alice", ONE), ("bob", TWO), ("alice", THREE)):
        bench.asks(name, "a.py")
        bench.settles()
        bench.releases(name, "a.py", commit=commit)
        bench.settles()
    asked = bench.asks("carol", "a.py")
    bench.settles()
    assert handed(bench, asked) == THREE


def test_who_left_nothing_hides_nothing() -> None:
    bench = Bench("alice", "bob", "carol")
    for name, commit in (("alice", ONE), ("bob", None)):
        bench.asks(name, "a.py")
        bench.settles()
        bench.releases(name, "a.py", commit=commit)
        bench.settles()
    asked = bench.asks("carol", "a.py")
    bench.settles()
    assert handed(bench, asked) == ONE


@pytest.mark.parametrize(
    ("left_on", "asked_for", "found"),
    [
        ("src/a.py", "src/", True),
        ("src/", "src/a.py", True),
        ("src/*.py", "src/a.py", True),
        ("src/a.py", "**/*.py", True),
        ("src/*.py", "src/*.md", False),
        ("src/a.py", "src/b.py", False),
        ("src/*/f", "src/x/*", True),
    ],
)
def test_folders_and_patterns_overlap_as_everywhere(left_on: str, asked_for: str, found: bool) -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", left_on)
    bench.settles()
    bench.releases("alice", left_on, commit=ONE)
    bench.settles()
    asked = bench.asks("bob", asked_for)
    bench.settles()
    assert handed(bench, asked) == (ONE if found else None)


@pytest.mark.parametrize("written", [True, False])
def test_of_a_part_that_was_released_only_that_part_is_handed_over(written: bool) -> None:
    bench = held_by_alice("bob", paths=("a.py", "b.py"))
    waiting = bench.asks("bob", "b.py", wait_ms=0)
    bench.settles()
    bench.releases("alice", "b.py", commit=ONE)
    while any(bench.links.values()) and not written:
        any_order(bench, Random(0))
    bench.settles()
    assert handed(bench, waiting) == ONE
    bench.releases("alice", "a.py")
    bench.settles()
    asked = bench.asks("bob", "a.py")
    bench.settles()
    assert handed(bench, asked) is None


def test_what_is_kept_of_a_lease_keeps_what_it_was_handed() -> None:
    bench = held_by_alice("bob")
    bench.releases("alice", "a.py", commit=ONE)
    bench.settles()
    bench.asks("bob", "a.py", "b.py")
    bench.settles()
    bench.releases("bob", "b.py", commit=TWO)
    bench.settles()
    (lease,) = bench.of("bob").leases(bench.instant, "agent-of-bob")
    assert lease.resources == (file("a.py"),)
    assert lease.handover is not None
    assert lease.handover.commit == ONE


def test_everything_may_be_left_behind_at_once() -> None:
    bench = held_by_alice("bob")
    bench.asks("alice", "b.py")
    bench.settles()
    bench.releases("alice", everything=True, commit=ONE)
    bench.settles()
    for path in ("a.py", "b.py"):
        asked = bench.asks("bob", path)
        bench.settles()
        assert handed(bench, asked) == ONE


def test_it_is_known_after_a_restart_of_either_side() -> None:
    for name in ("alice", "bob"):
        bench = held_by_alice("bob")
        bench.releases("alice", "a.py", commit=ONE)
        bench.settles()
        bench.restarts(name)
        bench.settles()
        for author, reader in sorted(bench.links):
            bench.writes_reach(reader, author)
        asked = bench.asks("bob", "a.py")
        bench.settles()
        assert handed(bench, asked) == ONE


@pytest.mark.parametrize("first", ["end", "entry"])
def test_the_end_and_the_entry_say_the_same_whichever_comes_first(first: str) -> None:
    bench = held_by_alice("bob")
    bench.releases("alice", "a.py", commit=ONE, branch="b")
    steps: list[Callable[[], None]] = [lambda: bench.delivers("alice", "bob"), lambda: bench.writes_reach("bob", "alice")]
    for step in steps if first == "end" else reversed(steps):
        step()
        found = bench.of("bob").history.handover((file("a.py"),), fold=False)
        assert found is not None
        assert (found.commit, found.branch) == (ONE, "b")


def test_when_the_entry_is_dropped_so_is_the_hand_over() -> None:
    bench = Bench("alice", "bob", lease_history=1)
    for path in ("a.py", "b.py"):
        bench.asks("alice", path)
        bench.settles()
        bench.releases("alice", path, commit=ONE)
        bench.settles()
    for name in ("alice", "bob"):
        history = bench.of(name).history
        assert history.handover((file("a.py"),), fold=False) is None
        assert history.handover((file("b.py"),), fold=False) is not None


# --- clocks ----------------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_behind_does_not_make_the_last_one_an_earlier_one() -> None:
    bench = Bench("alice", "bob", "carol")
    asked = bench.asks("alice", "a.py")
    bench.settles()
    assert bench.granted(asked)
    slow = Now(bench.instant, WALL_MS - 600_000)
    bench.releases("alice", "a.py", commit=ONE)
    bench.settles()
    bench.asks("bob", "a.py")
    bench.settles()
    _, outputs = bench.of("bob").release("agent-of-bob", (file("a.py"),), slow, commit=TWO)
    bench.does("bob", outputs)
    bench.settles()
    asked = bench.asks("carol", "a.py")
    bench.settles()
    assert handed(bench, asked) == TWO


def told_by_alice(bench: Bench, number: int, path: str, stamp: int) -> None:
    claim = a_claim(f"alice.1.{number}", path, granted=True)
    bench.hears("bob", "alice", claim)
    bench.hears("bob", "alice", End(id=claim.claim.id, reason="released", left=Left(ONE, "", "then", stamp)))


def test_one_broken_clock_does_not_set_all_others() -> None:
    bench = Bench("alice", "bob")
    far = bench.now.wall_ms + MAX_AHEAD_MS + 1
    told_by_alice(bench, 1, "x.py", far)
    bench.asks("bob", "a.py")
    bench.settles()
    bench.releases("bob", "a.py", commit=TWO)
    ((_, *entry),) = bench["bob"].history.values()
    assert far not in entry
    assert bench.now.wall_ms in entry


# --- what others may say ---------------------------------------------------------------------------------------------------


def test_an_end_that_tells_of_nothing_known_harms_nothing() -> None:
    bench = Bench("alice", "bob")
    bench.hears("bob", "alice", End(id="alice.1.7", reason="released", left=Left(ONE, "", "then", 1)))
    assert bench.of("bob").history.handover((file("a.py"),), fold=False) is None


def test_nobody_leaves_behind_for_another() -> None:
    bench = held_by_alice("bob", "carol")
    bench.hears("bob", "carol", End(id="alice.1.1", reason="released", left=Left(ONE, "", "then", 1)))
    assert bench.of("bob").history.handover((file("a.py"),), fold=False) is None


def test_what_was_told_and_never_written_is_forgotten_in_time() -> None:
    bench = Bench("alice", "bob")
    for number in range(1, MAX_TOLD + 11):
        told_by_alice(bench, number, f"{number}.py", number)
    history = bench.of("bob").history
    known = [n for n in range(1, MAX_TOLD + 11) if history.handover((Resource("file", f"{n}.py"),), fold=False)]
    assert known == list(range(11, MAX_TOLD + 11))


def test_case_counts_only_where_it_does() -> None:
    bench = Bench("alice", "bob")
    told_by_alice(bench, 1, "Readme.md", 1)
    history = bench.of("bob").history
    assert history.handover((file("README.md"),), fold=False) is None
    assert history.handover((file("README.md"),), fold=True) is not None


def test_an_entry_of_what_was_told_as_a_part_stays_a_part() -> None:
    bench = held_by_alice("bob", paths=("a.py", "b.py"))
    left = Left(ONE, "", "then", 1, (file("b.py"),))
    bench.hears("bob", "alice", End(id="alice.1.1", reason="expired", left=left))
    body = a_body("alice.1.1")
    whole = ["sig", body.agent, [["file", "a.py"], ["file", "b.py"]], "exclusive", 0, "quorum", "x", "y", "expired", 1, None, ONE]
    change = EntryChange(root="leaseHistory", key="1.1", value=whole)
    bench.of("bob").entries_changed("alice", (change,), bench.now)
    history = bench.of("bob").history
    assert history.handover((file("b.py"),), fold=False) is not None
    assert history.handover((file("a.py"),), fold=False) is None
