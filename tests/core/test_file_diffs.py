"""Live diffs in the node: own work is shared, conflicts are asked for, told once, and told when they are over."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.core.feeds import Pen
from tests.core.node_bench import ANN, BEN, NodeBench

from sudocode_coordination.api.requests import AcquireLease, CheckConflicts, GetBriefing, GetFindings, ListConflicts, SetWork
from sudocode_coordination.core import file_diffs
from sudocode_coordination.core.diff_entries import MAX_WORKTREES, DiffEntry, Hunk, Work, WorkHeader
from sudocode_coordination.core.foretelling import whose
from sudocode_coordination.core.io import StopRequested
from sudocode_coordination.core.item import Item
from sudocode_coordination.core.life import STOP_MS
from sudocode_coordination.core.merges import ForetellMerge, MergeConflict, MergeForetold, WorkSeen, WorkUnseen
from sudocode_coordination.core.wire import Envelopes
from sudocode_coordination.model import Conflict, LineRange, Resource
from sudocode_coordination.sim.identity import SimKeyring

ID, OTHER_ID = "a" * 40, "b" * 40
CLASH = MergeConflict(path="src/a.py", kind="contents", lines=(LineRange(3, 4),), their_lines=(LineRange(5, 5),))


def work(*paths: str, agent: str = "me", text: str = "x\n", base: str = ID, branch: str = "main") -> Work:
    files = {path: DiffEntry(change="modified", mode="100644", blob=ID, base=OTHER_ID, hunks=(Hunk(0, 1, text),)) for path in paths}
    return Work(header=WorkHeader(base=base, agent=agent, branch=branch), files=files)


class SimPen(Pen):
    """Of a peer of the bench."""

    def __init__(self, keyring: SimKeyring) -> None:
        self.keyring = keyring  # type: ignore[assignment]  # signs as well
        self.owner = keyring.peer_id
        self.begin(1)


class Bench(NodeBench):
    """A node that takes part, with ann and ben connected unless it is alone."""

    def __init__(self, *, alone: bool = False, **config: Any) -> None:
        super().__init__(**{"enable_file_diffs": True, **config})
        if not alone:
            self.reads(ann=ANN, ben=BEN)
            self.connects(ANN)
            self.connects(BEN)
        self.pens = {key.peer_id: SimPen(key) for key in (ANN, BEN)}

    def sees(self, shown: Work | None, worktree: str = ".") -> None:
        self.gives(WorkSeen(worktree=worktree, work=shown))
        self.passes(100)

    def shares(self, key: Any, shown: Work, worktree: str = ".", without: tuple[str, ...] = ()) -> None:
        """A peer writes entries."""
        entries: dict[tuple[Any, str], Any] = {
            ("fileDiffs", f"{worktree}|{path}"): msgspec.to_builtins(entry) for path, entry in shown.files.items()
        }
        entries |= {("fileDiffs", f"{worktree}|{path}"): None for path in without}
        entries["fileDiffs", worktree] = msgspec.to_builtins(shown.header)
        self.hears(key, Envelopes(envelopes=(self.pens[key.peer_id].write(entries),)))

    def wanted(self) -> list[ForetellMerge]:
        return [effect for effect in self.effects if isinstance(effect, ForetellMerge)]

    def answers(self, *conflicts: MergeConflict, unknown: str = "") -> None:
        self.gives(MergeForetold(ticket=self.wanted()[-1].ticket, conflicts=conflicts, unknown=unknown))

    def own(self) -> dict[str, Any]:
        return dict(self.node.sync.owner_entries("fileDiffs", self.me))

    def heard(self, kind: str) -> list[Any]:
        return list(self.events(kind))


def test_what_goes_in_and_out_can_be_kept_in_a_journal() -> None:
    for item in (WorkSeen(worktree=".", work=work("a")), MergeForetold(ticket=1, conflicts=(CLASH,)), WorkUnseen(reason="x")):
        assert isinstance(item, Item)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(item), type=type(item)) == item


def test_own_work_is_shared_and_only_what_differs_is_written_again() -> None:
    bench = Bench()
    bench.sees(work("src/a.py", "src/b.py"))
    first = bench.own()
    assert sorted(first) == [".", ".|src/a.py", ".|src/b.py"]
    bench.sees(work("src/a.py", text="y\n"))
    assert sorted(bench.own()) == [".", ".|src/a.py"]
    assert bench.own()["."] == first["."]
    steps = len(bench.steps)
    bench.gives(WorkSeen(worktree=".", work=work("src/a.py", text="y\n")))
    assert bench.steps[steps] == [], "nothing new"
    bench.sees(None)
    assert bench.own() == {}


def test_nothing_is_shared_or_asked_unless_it_is_switched_on() -> None:
    bench = Bench(enable_file_diffs=False)
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann"))
    assert (bench.own(), bench.wanted()) == ({}, [])
    answer = bench.asks(ListConflicts())
    assert not answer.enabled
    assert [one.agents for one in answer.works] == [("ann",)], "what others share can be seen all the same"


def test_a_conflict_is_told_once_with_lines_and_agents_and_told_when_it_is_over() -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann", branch="feature/x"))
    (wanted,) = bench.wanted()
    assert (wanted.worktree, wanted.theirs) == (".", work("src/a.py", agent="ann", branch="feature/x"))
    bench.answers(CLASH)
    (event,) = bench.heard("conflicts-detected")
    (told,) = event.data["foretold"]
    assert (event.agent_id, told["path"], told["kind"]) == ("me", "src/a.py", "contents")
    assert (told["agents"], told["theirAgents"], told["theirPeerId"]) == (("me",), ("ann",), ANN.peer_id)
    assert (told["lines"], told["theirLines"], told["theirBranch"]) == (([3, 4],), ([5, 5],), "feature/x")
    bench.sees(work("src/a.py", text="z\n"))
    bench.answers(msgspec.structs.replace(CLASH, lines=(LineRange(7, 7),)))
    assert len(bench.heard("conflicts-detected")) == 1, "it is the same one"
    (now,) = bench.asks(ListConflicts()).conflicts
    assert (now.lines, now.since) == ((LineRange(7, 7),), told["since"])
    bench.sees(work("src/other.py"))
    assert [event.data["foretold"][0]["path"] for event in bench.heard("conflicts-cleared")] == ["src/a.py"]
    assert not bench.asks(ListConflicts())


def test_it_is_over_when_the_other_takes_its_change_back() -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann"))
    bench.answers(CLASH)
    bench.shares(ANN, work(agent="ann"), without=("src/a.py",))
    assert len(bench.heard("conflicts-cleared")) == 1
    assert len(bench.wanted()) == 1, "what can't conflict is not asked about"


def test_one_merge_at_a_time_and_the_latest_work() -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann"))
    bench.shares(BEN, work("src/a.py", agent="ben"))
    bench.shares(BEN, work("src/a.py", agent="ben", text="later\n"))
    assert len(bench.wanted()) == 1
    bench.answers()
    assert bench.wanted()[1].theirs == work("src/a.py", agent="ben", text="later\n")
    bench.answers()
    assert len(bench.wanted()) == 2
    bench.gives(MergeForetold(ticket=1, conflicts=(CLASH,)))
    assert not bench.asks(ListConflicts()), "an answer that nobody waits for"


def test_what_has_changed_meanwhile_is_asked_about_again() -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann"))
    bench.sees(work("src/a.py", text="y\n"))
    bench.answers(CLASH)
    assert bench.asks(ListConflicts()).conflicts
    assert len(bench.wanted()) == 2
    bench.answers()
    assert not bench.asks(ListConflicts()).conflicts


def test_worktrees_of_one_clone_are_compared_too() -> None:
    bench = Bench(alone=True)
    bench.asks(AcquireLease(resources=(Resource("file", "src/a.py"),), agent="helper"))
    bench.sees(work("src/a.py"))
    bench.sees(work("src/a.py", text="y\n"), "wt-2")
    assert [(wanted.worktree) for wanted in bench.wanted()] == ["."]
    bench.answers(CLASH)
    bench.answers(CLASH)
    found = bench.asks(ListConflicts()).conflicts
    assert [(one.worktree, one.their_worktree) for one in found] == [("", "wt-2"), ("wt-2", "")]
    assert {one.agents for one in found} == {("helper",)}


def test_whose_changes_they_are() -> None:
    bench = Bench(alone=True)
    now = bench.now
    assert whose(bench.node, bench.me, ".", ["src/a.py"], now) == ("me",)
    bench.asks(SetWork(files=("src/",), agent="worker"))
    assert whose(bench.node, bench.me, ".", ["src/a.py"], now) == ("worker",)
    bench.asks(AcquireLease(resources=(Resource("file", "src/a.py"),), agent="holder"))
    assert whose(bench.node, bench.me, ".", ["src/a.py"], bench.now) == ("holder",)
    assert whose(bench.node, ANN.peer_id, ".", ["src/a.py"], now) == (), "nobody said so"


def test_check_and_briefing_tell_of_it() -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann", branch="feature/x"))
    bench.answers(msgspec.structs.replace(CLASH, certain=False))
    (found,) = bench.asks(CheckConflicts(resources=(Resource("file", "src/"), Resource("issue", "#1")))).conflicts
    assert found == Conflict(
        resource=Resource("file", "src/a.py"),
        kind="merge",
        agent_id="ann",
        peer_id=ANN.peer_id,
        note="contents, perhaps, on feature/x",
        lines=(LineRange(3, 4),),
        their_lines=(LineRange(5, 5),),
    )
    assert bench.asks(CheckConflicts(resources=(Resource("file", "docs/"),))).conflicts == ()
    assert [one.path for one in bench.asks(GetBriefing()).foretold] == ["src/a.py"]
    assert bench.asks(GetBriefing(agent="somebody")).foretold == ()


def test_what_can_not_be_judged_is_said_and_tried_again() -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann", base=OTHER_ID))
    bench.answers(unknown="commit bbbb is not here")
    (mine, theirs) = bench.asks(ListConflicts()).works
    assert (mine.mine, mine.unknown, theirs.unknown) == (True, "", "commit bbbb is not here")
    bench.passes(file_diffs.RETRY_MS - 200)
    assert len(bench.wanted()) == 1
    bench.passes(400)
    assert len(bench.wanted()) == 2
    bench.answers(CLASH)
    assert len(bench.heard("conflicts-detected")) == 1
    assert bench.asks(ListConflicts()).works[1].unknown == ""


def test_why_nothing_is_seen_is_told() -> None:
    bench = Bench()
    bench.gives(WorkUnseen(reason="git 2.38 or later is needed"))
    assert bench.asks(ListConflicts()).trouble == "git 2.38 or later is needed"
    assert any("git 2.38" in finding.message for finding in bench.asks(GetFindings()))
    bench.gives(WorkUnseen(reason=""))
    assert bench.asks(ListConflicts()).trouble == ""


def test_a_stop_takes_everything_back_and_nothing_is_asked_any_more() -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.gives(StopRequested())
    assert bench.own() == {}
    bench.shares(ANN, work("src/a.py", agent="ann"))
    bench.passes(STOP_MS)
    assert bench.wanted() == []


def test_what_was_shared_before_a_crash_is_taken_back_and_what_others_share_is_known() -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann"))
    again = NodeBench(contents=bench.disk(), enable_file_diffs=True)
    assert dict(again.node.sync.owner_entries("fileDiffs", again.me)) == {}
    assert list(again.node.diffs.works) == [(ANN.peer_id, ".")]


def test_a_peer_can_not_make_others_keep_more_than_so_much() -> None:
    bench = Bench()
    many = {f"f{number}" for number in range(file_diffs.MAX_OWNER_FILES + 50)}
    for start in range(0, len(many), 100):
        bench.shares(ANN, work(*sorted(many)[start : start + 100], agent="ann"))
    for number in range(MAX_WORKTREES + 5):
        bench.shares(ANN, work(agent="ann"), f"wt{number}")
    works = {name: one for name, one in bench.node.diffs.works.items() if name[0] == ANN.peer_id}
    assert sum(len(one.files) for one in works.values()) == file_diffs.MAX_OWNER_FILES
    assert len(works) == MAX_WORKTREES


@pytest.mark.parametrize("path", ["../x", "a\nb", "\x1b]0;x\x07", ".git/config"])
def test_paths_that_a_hostile_peer_thought_of_are_not_told(path: str) -> None:
    bench = Bench()
    bench.sees(work("src/a.py"))
    bench.shares(ANN, work("src/a.py", agent="ann"))
    bench.answers(msgspec.structs.replace(CLASH, path=path))
    assert bench.heard("conflicts-detected") == []
