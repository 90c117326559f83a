"""Exclusive and shared, from the one to the other and back; asking again for what one has."""

from __future__ import annotations

from typing import Any

from tests.core.lease_bench import TTL, Bench, every_order, file

from sudocode_coordination.api.requests import LeaseOutcome


def modes(bench: Bench, name: str, agent: str = "") -> list[str]:
    """How the agent's leases are held."""
    who = agent or f"agent-of-{name}"
    return sorted(h.body.mode for h in bench[name].held() if h.body.agent == who and bench.instant < h.valid_until)


def readers(*names: str, others: tuple[str, ...] = ()) -> Bench:
    bench = Bench(*names, *others)
    for name in names:
        bench.asks(name, "a.py", mode="shared")
        bench.settles()
    return bench


def settles_without_a_gap(bench: Bench, name: str, path: str = "a.py") -> None:
    """Everything arrives, and the agent holds the file all the time."""
    while any(bench.links.values()):
        for sender, receiver in sorted(bench.links):
            if bench.links[sender, receiver]:
                bench.delivers(sender, receiver)
                assert name in bench.holders(path)


# --- from shared to exclusive -----------------------------------------------------------------------------------------------


def test_a_reader_that_is_alone_may_write_at_once() -> None:
    bench = readers("alice", others=("bob",))
    asked = bench.asks("alice", "a.py")
    settles_without_a_gap(bench, "alice")
    assert bench.granted(asked)
    assert modes(bench, "alice") == ["exclusive"]
    assert bench["alice"].told("lease-released") == bench["alice"].told("lease-lost") == []
    assert [lease.mode for lease in bench.of("bob").leases(bench.instant)] == ["exclusive"]
    assert [entry["mode"] for entry in bench["alice"].document.values()] == ["exclusive"]


def test_a_reader_keeps_what_it_has_while_it_waits_for_the_others_to_go() -> None:
    bench = readers("alice", "bob", "carol")
    asked = bench.asks("alice", "a.py", wait_ms=0)
    settles_without_a_gap(bench, "alice")
    for name in ("bob", "carol"):
        assert bench.answer(asked) is None
        assert modes(bench, "alice") == ["shared"]
        bench.releases(name, "a.py")
        settles_without_a_gap(bench, "alice")
    assert bench.granted(asked)
    assert modes(bench, "alice") == ["exclusive"]


def test_a_reader_that_will_not_wait_is_told_who_else_reads() -> None:
    bench = readers("alice", "bob", others=("carol",))
    asked = bench.asks("alice", "a.py")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.granted, answer.reason, [c.agent_id for c in answer.holders]) == (False, "held", ["agent-of-bob"])
    assert modes(bench, "alice") == ["shared"]


def test_a_reader_goes_before_writers_who_wait_for_it_in_any_case() -> None:
    bench = readers("alice", others=("bob", "carol"))
    writer = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    upgrade = bench.asks("alice", "a.py", wait_ms=0)
    settles_without_a_gap(bench, "alice")
    assert bench.granted(upgrade)
    assert bench.answer(writer) is None
    bench.releases("alice", "a.py")
    bench.settles()
    assert bench.granted(writer)


def test_and_before_one_that_has_waited_for_long() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("carol", "a.py", priority=3)
    bench.settles()
    waits = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    reader = bench.asks("alice", "a.py", mode="shared", priority=3, wait_ms=0)
    bench.settles()
    bench.releases("carol", "a.py")
    bench.settles()
    assert bench.granted(reader)
    bench.passes(300_000)
    assert [h.body.aged for h in bench["bob"].machine.holdings()] == [3]
    upgrade = bench.asks("alice", "a.py", priority=3, wait_ms=0)
    bench.settles()
    bench.passes(20_000)
    assert bench.granted(upgrade)
    assert bench.answer(waits) is None


def test_a_reader_that_releases_while_it_waits_to_write_gets_neither() -> None:
    bench = readers("alice", "bob")
    asked = bench.asks("alice", "a.py", wait_ms=0)
    bench.settles()
    bench.releases("alice", "a.py")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.granted, answer.reason) == (False, "released")
    assert bench.of("alice").holdings() == []


def test_a_reader_that_is_taken_over_goes_on_waiting_to_write() -> None:
    bench = readers("alice", "bob")
    asked = bench.asks("alice", "a.py", wait_ms=0)
    bench.settles()
    bench.asks("bob", "a.py", priority=9)
    bench.settles()
    assert modes(bench, "alice") == []
    assert modes(bench, "bob") == ["exclusive"]
    bench.releases("bob", "a.py")
    bench.settles()
    assert bench.granted(asked)


# --- from exclusive to shared -----------------------------------------------------------------------------------------------


def downgrades(bench: Bench, name: str, *paths: str, everything: bool = False) -> int:
    wanted = tuple(file(path) for path in paths)
    machine = bench.of(name)
    leases, outputs = machine.release(f"agent-of-{name}", wanted, bench.now, everything=everything, to_shared=True)
    bench.does(name, outputs)
    return len(leases)


def writer_with_readers_waiting() -> Bench:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py")
    bench.settles()
    for name in ("bob", "carol"):
        bench.asks(name, "a.py", mode="shared", wait_ms=0)
        bench.settles()
    return bench


def test_a_writer_lets_the_readers_in_and_stays_one_of_them() -> None:
    bench = writer_with_readers_waiting()
    assert downgrades(bench, "alice", "a.py") == 1
    assert modes(bench, "alice") == ["exclusive"], "until the others know of the shared one"
    settles_without_a_gap(bench, "alice")
    assert [modes(bench, name) for name in ("alice", "bob", "carol")] == [["shared"]] * 3
    assert bench["alice"].told("lease-released") == bench["alice"].told("lease-lost") == []
    assert bench.instant == bench.now.instant


def test_in_every_order_the_writer_never_is_without() -> None:
    def scene() -> Bench:
        bench = Bench("alice", "bob")
        bench.asks("alice", "a.py")
        bench.settles()
        bench.asks("bob", "a.py", mode="shared", wait_ms=0)
        bench.settles()
        bench.plans_to("alice", lambda: downgrades(bench, "alice", "a.py"))
        bench.plans_to("bob", lambda: bench.asks("bob", "a.py", agent="writer", wait_ms=0))
        return bench

    orders = 0
    for bench in every_order(scene):
        orders += 1
        assert (modes(bench, "alice"), modes(bench, "bob")) == (["shared"], ["shared"])
        (writer,) = [h for h in bench["bob"].machine.holdings() if not h.granted]
        assert writer.body.agent == "writer"
        for name in ("alice", "bob"):
            bench.releases(name, "a.py")
            bench.settles()
        assert modes(bench, "bob", "writer") == ["exclusive"]
    assert orders > 3


def test_who_waited_to_write_comes_before_readers_who_came_later() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py")
    bench.settles()
    write = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    read = bench.asks("carol", "a.py", mode="shared", wait_ms=0)
    bench.settles()
    downgrades(bench, "alice", "a.py")
    bench.settles()
    assert bench.answer(write) is bench.answer(read) is None
    bench.releases("alice", "a.py")
    bench.settles()
    assert (bench.granted(write), bench.granted(read)) == (True, False)


def test_of_several_resources_a_part_may_be_shared() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", "b.py", "c.py")
    bench.settles()
    reads = [bench.asks("bob", path, agent=path, mode="shared", wait_ms=0) for path in ("a.py", "b.py")]
    bench.settles()
    downgrades(bench, "alice", "a.py")
    settles_without_a_gap(bench, "alice")
    assert [bench.granted(asked) for asked in reads] == [True, False]
    held = {(h.body.mode, h.body.resources) for h in bench["alice"].held()}
    assert held == {("shared", (file("a.py"),)), ("exclusive", (file("b.py"), file("c.py")))}
    bench.releases("alice", "b.py")
    settles_without_a_gap(bench, "alice")
    assert bench.granted(reads[1])
    assert downgrades(bench, "alice", everything=True) == 1
    bench.settles()
    assert modes(bench, "alice") == ["shared", "shared"]
    assert downgrades(bench, "alice", everything=True) == 0, "there is nothing exclusive any more"


def test_who_changes_its_mind_on_the_way_down_writes_again() -> None:
    bench = writer_with_readers_waiting()
    downgrades(bench, "alice", "a.py")
    asked = bench.asks("alice", "a.py", wait_ms=0)
    bench.settles()
    bench.passes(10_000)
    if not bench.granted(asked):
        for name in ("bob", "carol"):
            bench.releases(name, "a.py")
            bench.settles()
    assert bench.granted(asked)
    assert modes(bench, "alice") == ["exclusive"]


# --- asking again ------------------------------------------------------------------------------------------------------------


def one(**asked: Any) -> Bench:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", **asked)
    bench.settles()
    return bench


def lease_of(bench: Bench, asked: int) -> LeaseOutcome:
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    return answer


def test_a_longer_ttl_takes_effect_and_a_shorter_one_does_not() -> None:
    bench = one(ttl_ms=60_000)
    said = len(bench["alice"].said)
    for ttl_ms in (None, 30_000, 60_000):
        bench.asks("alice", "a.py", ttl_ms=ttl_ms)
    assert len(bench["alice"].said) == said
    asked = bench.asks("alice", "a.py", ttl_ms=600_000)
    assert bench.granted(asked), "it has it, and need not wait for anybody"
    bench.settles()
    assert bench["alice"].holding().valid_until == bench.instant + 2 * TTL
    assert [lease.remaining_ms for lease in bench.of("bob").leases(bench.instant)] == [60_000]
    bench.passes(200_000, frozen=("alice",))
    assert [lease.agent_id for lease in bench.of("bob").leases(bench.instant)] == ["agent-of-alice"]
    asked = bench.asks("alice", "a.py", ttl_ms=1 << 40)
    assert lease_of(bench, asked).lease is not None
    assert bench["alice"].holding().ttl_ms == bench["alice"].config.max_lease_ttl_ms


def test_a_higher_priority_takes_effect_and_a_lower_one_does_not() -> None:
    bench = one(priority=3)
    assert bench.granted(bench.asks("alice", "a.py", priority=1))
    assert bench["alice"].holding().body.priority == 3
    asked = bench.asks("alice", "a.py", priority=7)
    settles_without_a_gap(bench, "alice")
    assert bench.granted(asked)
    (held,) = bench["alice"].held()
    assert held.body.priority == 7
    bench.asks("bob", "a.py", priority=5)
    bench.settles()
    assert bench.holders("a.py") == ["alice"]


def test_in_the_grace_a_holder_may_show_that_it_is_as_important() -> None:
    bench = Bench("alice", "bob", preempt_grace_ms=30_000)
    bench.asks("alice", "a.py")
    bench.settles()
    waits = bench.asks("bob", "a.py", priority=5, wait_ms=0)
    bench.settles()
    raised = bench.asks("alice", "a.py", priority=5)
    bench.settles()
    assert bench.granted(raised)
    bench.passes(60_000)
    assert bench.holders("a.py") == ["alice"]
    assert bench["alice"].told("lease-lost") == []
    assert bench.answer(waits) is None


def test_another_note_is_shown_to_all() -> None:
    bench = one(note="first", ttl_ms=60_000, priority=2)
    asked = bench.asks("alice", "a.py", note="second")
    assert bench.granted(asked)
    settles_without_a_gap(bench, "alice")
    bench.writes_reach("bob", "alice")
    for name in ("alice", "bob"):
        (lease,) = bench.of(name).leases(bench.instant)
        assert (lease.note, lease.priority, lease.ttl_ms, lease.state) == ("second", 2, 60_000, "granted")
    said = len(bench["alice"].said)
    bench.asks("alice", "a.py")
    bench.asks("alice", "a.py", note="second")
    assert len(bench["alice"].said) == said


def test_alone_another_note_shows_in_the_answer() -> None:
    bench = Bench("alice")
    bench.asks("alice", "a.py", note="first")
    lease = lease_of(bench, bench.asks("alice", "a.py", note="second")).lease
    assert lease is not None
    assert lease.note == "second"


def test_more_is_taken_in_one_step_and_what_is_held_stays_held() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", ttl_ms=600_000)
    bench.asks("bob", "b.py")
    bench.settles()
    asked = bench.asks("alice", "a.py", "b.py", wait_ms=0)
    bench.settles()
    assert bench.answer(asked) is None
    assert bench.holders("a.py") == ["alice"]
    bench.releases("bob", "b.py")
    settles_without_a_gap(bench, "alice")
    (held,) = bench["alice"].held()
    assert held.body.resources == (file("a.py"), file("b.py"))
    assert held.ttl_ms == 600_000, "nothing of it is less than it was"
    assert bench.granted(asked)
    bench.releases("alice", "a.py")
    settles_without_a_gap(bench, "alice", "b.py")
    assert bench.holders("a.py") == []


def test_more_that_can_not_be_had_leaves_what_is_held_as_it_was() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.asks("bob", "b.py")
    bench.settles()
    (before,) = bench["alice"].held()
    assert not lease_of(bench, bench.asks("alice", "a.py", "b.py"))
    assert bench["alice"].held() == [before]


def test_what_several_leases_cover_is_covered() -> None:
    bench = Bench("alice", "bob")
    for path in ("a.py", "b.py"):
        bench.asks("alice", path)
        bench.settles()
    waits = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    asked = bench.asks("alice", "a.py", "b.py")
    settles_without_a_gap(bench, "alice")
    assert bench.granted(asked)
    assert len(bench["alice"].held()) == 1
    assert bench.answer(waits) is None


def test_a_folder_does_not_swallow_the_file_that_was_leased_by_its_own_name() -> None:
    bench = Bench("alice")
    bench.asks("alice", "src/a.py")
    bench.asks("alice", "src/")
    assert len(bench["alice"].held()) == 2
    bench.releases("alice", "src/")
    assert [h.body.resources for h in bench["alice"].held()] == [(file("src/a.py"),)]


def test_what_has_run_out_is_not_held_any_more_even_before_it_was_noticed() -> None:
    bench = one(ttl_ms=20_000)
    bench.instant += 20_000
    asked = bench.asks("alice", "a.py")
    assert bench.answer(asked) is None, "bob has to be asked"
    bench.settles()
    assert bench.granted(asked)
