"""The writer of the strict table: batches, tries again, and knows what it knows."""

from __future__ import annotations

from random import Random

import pytest
from tests.core.strict_bench import BIRTH, TTL, WALL, Answer, Chain, Port, body_of

from sudocode_coordination.core import strict_writer
from sudocode_coordination.core.facts import StrictWanted
from sudocode_coordination.core.io import (
    BuildTable,
    ReadTable,
    SwapTable,
    TableRead,
    TableReadFailed,
    TableSwapFailed,
    TableSwapped,
)
from sudocode_coordination.core.strict_own import ASKS_KEPT, OwnStrict
from sudocode_coordination.core.strict_table import META, encode_entry, path_of
from sudocode_coordination.core.strict_writer import AGAIN_MS, HOLD_MS, MAX_PROBLEMS, Settled, TableWriter
from sudocode_coordination.core.wire import StrictAcquire, StrictOp, StrictRelease, StrictRenew
from sudocode_coordination.model import ClaimId, Instant, Now


class Desk:
    """A writer whose remote answers when the test says so."""

    def __init__(self, chain: Chain | None = None, name: str = "a") -> None:
        self.chain = chain or Chain()
        self.port = Port(self.chain)
        self.instant = BIRTH
        self.over: set[ClaimId] = set()
        self.writer = TableWriter(name, Random(1), self.over.__contains__)

    @property
    def now(self) -> Now:
        return Now(self.instant, WALL + self.instant - BIRTH)

    def gives(self, op: StrictOp, source: str | None = None, *, patient: bool = True, by: Instant | None = None) -> None:
        self.writer.submit(op, source, self.now, patient=patient, by=by)

    def pumps(self) -> None:
        for job in self.writer.pump(self.now):
            assert isinstance(job, ReadTable | SwapTable | BuildTable)
            self.port.jobs.append(job)

    def answers(self, how: Answer = "well") -> None:
        given = self.port.answer(how)
        for job in self.writer.took(given, self.now):  # type: ignore[arg-type]
            assert isinstance(job, ReadTable)
            self.port.jobs.append(job)

    def runs(self) -> list[Settled]:
        self.pumps()
        while self.port.jobs:
            self.answers()
            self.pumps()
        settled, self.writer.settled = self.writer.settled, []
        return settled


def acquire(n: int, path: str, peer: str = "a", ask: int = 1) -> StrictAcquire:
    return StrictAcquire(body_of(peer, n, path), ask)


def test_what_waits_goes_in_one_commit_and_the_next_builds_on_it() -> None:
    desk = Desk()
    desk.gives(acquire(1, "a.py"))
    desk.pumps()
    desk.answers()
    desk.pumps()
    for n in range(2, 10):
        desk.gives(acquire(n, f"{n}.py"))
    settled = desk.runs()
    assert [s.result.token for s in settled if s.result] == list(range(1, 10))
    assert len(desk.chain.history) == 2


def test_a_refusal_by_an_old_view_is_checked_before_it_is_told() -> None:
    desk, other = Desk(), Desk(name="b")
    other.chain = desk.chain
    other.port = Port(desk.chain)
    other.gives(acquire(1, "x.py", "b"))
    other.runs()
    desk.gives(acquire(1, "y.py"))
    desk.runs()
    other.gives(StrictRelease("b.1.op1", ("b.1.1",)))
    other.runs()  # overtaken
    other.instant += 1_000
    assert len(other.runs()) == 1
    desk.instant += 1_000
    desk.gives(acquire(2, "x.py"))
    (settled,) = desk.runs()
    assert settled.result is not None
    assert settled.result.kind == "done"


def test_the_remote_gone_fails_those_who_do_not_wait_and_keeps_the_others() -> None:
    desk = Desk()
    desk.gives(acquire(1, "x.py"), patient=False)
    desk.gives(acquire(2, "y.py"))
    desk.pumps()
    desk.answers("down")
    (settled,) = desk.writer.settled
    assert (settled.failure, settled.reason) == ("unreachable", "no route to host")
    assert desk.writer.unreachable_since == WALL
    desk.writer.settled = []
    desk.pumps()
    assert not desk.port.jobs, "not at once again"
    desk.instant += 2 * AGAIN_MS
    assert [s.op.claim.id for s in desk.runs() if isinstance(s.op, StrictAcquire)] == ["a.1.2"]
    assert desk.writer.unreachable_since is None


def test_pauses_grow_and_are_bounded() -> None:
    desk = Desk()
    desk.gives(acquire(1, "x.py"))
    pauses = []
    for _ in range(12):
        desk.pumps()
        desk.answers("down")
        at = desk.writer.deadline()
        assert at is not None
        pauses.append(at - desk.instant)
        desk.instant = at
    assert pauses[0] < pauses[2] < pauses[4]
    assert max(pauses) <= strict_writer.MAX_AGAIN_MS


def test_what_nobody_wants_any_more_is_not_written() -> None:
    desk = Desk()
    desk.gives(acquire(1, "x.py"), "b", by=desk.instant + 5_000)
    desk.gives(acquire(2, "y.py"))
    assert desk.writer.withdraw("a.1.2")
    desk.instant += 5_000
    desk.pumps()
    assert [(s.source, s.failure) for s in desk.writer.settled] == [("b", "busy")]
    assert not desk.port.jobs
    desk.gives(acquire(3, "z.py"))
    desk.pumps()
    desk.answers()
    desk.pumps()
    assert not desk.writer.withdraw("a.1.3"), "it is on its way"


def test_one_peer_does_not_take_all_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_writer, "MAX_PEER_JOBS", 3)
    desk = Desk()
    for n in range(1, 6):
        desk.gives(acquire(n, f"{n}.py", "b"), "b")
    desk.gives(acquire(1, "x.py"))
    assert [(s.source, s.failure) for s in desk.writer.settled] == [("b", "busy")] * 2
    desk.writer.settled = []
    assert len(desk.runs()) == 4
    desk.gives(acquire(9, "9.py", "b"), "b")
    assert not desk.writer.settled, "there is room again"


def test_a_table_told_against_something_unknown_is_read_as_a_whole() -> None:
    desk = Desk()
    desk.gives(acquire(1, "x.py"))
    desk.runs()
    desk.writer.wants_read = True
    desk.pumps()
    desk.port.jobs.clear()
    outputs = desk.writer.took(TableRead(commit="f" * 40, base="e" * 40, changed={}), desk.now)
    assert outputs == [ReadTable(whole=True)]
    desk.port.jobs.append(ReadTable(whole=True))
    desk.answers()
    assert list(desk.writer.table.entries) == ["a.1.1"]
    assert desk.writer.tip == desk.chain.tip


def test_answers_to_something_else_change_nothing() -> None:
    desk = Desk()
    desk.writer.took(TableSwapped(ticket=7, commit="f" * 40), desk.now)
    desk.writer.took(TableSwapFailed(ticket=8, kind="refused", reason="no"), desk.now)
    assert (desk.writer.known, desk.writer.settled) == (False, [])


def test_an_entry_is_stale_when_it_was_long_enough_as_it_is() -> None:
    desk = Desk()
    desk.gives(acquire(1, "x.py", "b"), "b")
    desk.runs()
    entry = desk.writer.table.entries["b.1.1"]
    assert not desk.writer.may_take(entry, desk.instant + TTL * 6 // 5)
    assert desk.writer.may_take(entry, desk.instant + TTL * 6 // 5 + 1)
    desk.instant += TTL
    desk.gives(StrictRenew("b.1.op1", ("b.1.1",)), "b")
    desk.runs()
    renewed = desk.writer.table.entries["b.1.1"]
    assert not desk.writer.may_take(renewed, desk.instant + TTL)
    desk.over.add("b.1.1")
    assert desk.writer.may_take(renewed, desk.instant)


def test_a_commit_for_a_client_is_made_on_the_tip_and_keeps_others_back_for_a_while() -> None:
    desk = Desk()
    desk.gives(acquire(1, "x.py"))
    desk.runs()
    desk.writer.prepare(StrictRenew("a.1.op1", ("a.1.1",)), desk.now)
    desk.gives(acquire(2, "y.py"))
    desk.pumps()
    assert [type(job) for job in desk.port.jobs] == [BuildTable]
    desk.answers()
    (built,) = desk.writer.built
    assert (built.parent, built.failure) == (desk.chain.tip, None)
    desk.pumps()
    assert not desk.port.jobs
    assert desk.writer.deadline() == desk.instant + HOLD_MS
    desk.instant += HOLD_MS
    assert len(desk.runs()) == 1


def test_problems_are_told_and_bounded() -> None:
    desk = Desk()
    bad: dict[str, bytes | None] = {path_of(f"b.1.{n}"): b"junk" for n in range(30)}
    desk.writer.took(TableRead(commit="f" * 40, changed={META: b"junk", **bad}), desk.now)
    problems = desk.writer.problems()
    assert any("damaged" in problem for problem in problems)
    assert len(problems) <= MAX_PROBLEMS + 2
    for n in range(20):
        desk.instant += 1
        desk.writer.took(TableRead(commit=f"{n:040x}", base=desk.writer.tip, rewound=True), desk.now)
    assert sum("rewound" in problem for problem in desk.writer.problems()) <= MAX_PROBLEMS


def test_a_table_of_a_later_version_is_left_alone() -> None:
    desk = Desk()
    desk.gives(acquire(1, "x.py"))
    desk.pumps()
    desk.port.jobs.clear()
    desk.writer.took(TableRead(commit="f" * 40, changed={META: b'{"version":9,"revision":3}'}), desk.now)
    desk.pumps()
    assert not desk.port.jobs
    assert [(s.failure, "version 9" in s.reason) for s in desk.writer.settled] == [("newer", True)]


def test_a_failed_read_of_a_prepared_push_is_told() -> None:
    desk = Desk()
    desk.writer.prepare(StrictRenew("a.1.op1", ("a.1.1",)), desk.now)
    desk.pumps()
    desk.port.jobs.clear()
    desk.writer.took(TableReadFailed(reason="gone"), desk.now)
    assert [(b.failure, b.reason) for b in desk.writer.built] == [("unreachable", "gone")]


def test_the_times_of_askings_are_bounded_and_the_latest_are_kept() -> None:
    own = OwnStrict(StrictWanted(claim=body_of("a", 1, "x.py"), decide_by=None, waits=True), Now(BIRTH, WALL), {})
    for n in range(ASKS_KEPT + 5):
        own.note_ask(BIRTH + n)
    assert len(own.asks) == ASKS_KEPT
    assert own.asks[own.count] == BIRTH + ASKS_KEPT + 4
    own.count_from(BIRTH + 9)
    own.count_from(BIRTH + 5)
    assert own.valid_until == BIRTH + 9 + TTL, "an older answer takes nothing away"


def test_an_entry_reads_as_it_was_written() -> None:
    desk = Desk()
    desk.gives(acquire(1, "x.py", ask=4))
    desk.runs()
    entry = desk.writer.table.entries["a.1.1"]
    assert desk.chain.files[desk.chain.tip][path_of("a.1.1")] == encode_entry(entry)
    assert entry.ask == 4


def test_that_a_lease_is_gone_is_believed_only_of_a_table_read_since_it_was_asked() -> None:
    """Another peer wrote it; who renews it by itself for the first time knows an older table."""
    alice = Desk()
    alice.gives(acquire(1, "a.py"))
    alice.runs()
    bob = Desk(alice.chain, "b")
    bob.instant = alice.instant = alice.instant + 1_000
    bob.gives(acquire(2, "b.py"), "a")
    assert [s.result.token for s in bob.runs() if s.result] == [2]
    alice.gives(StrictRenew("r", (acquire(2, "b.py").claim.id,)))
    (renewed,) = alice.runs()
    assert renewed.result is not None
    assert renewed.result.lost == ()
    assert len(alice.chain.history) == 3
