"""Leases on folders and patterns: who is denied, what is shown, what a release ends, and work on what is leased."""

from __future__ import annotations

import pytest
from tests.core.lease_bench import Bench, file
from tests.core.node_bench import NodeBench

from sudocode_coordination.api.requests import AcquireLease, CheckConflicts, ListLeases, ReleaseLease, RenewLease, SetWork
from sudocode_coordination.core.agents import Agents
from sudocode_coordination.core.facts import EntryChange
from sudocode_coordination.core.wire import Claim, ClaimBody
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Json, Now, Resource


@pytest.mark.parametrize("held", ["src/auth/", "src/auth", "src/**/*.py", "src/auth/*.py", "**", "./", "src/*/"])
def test_a_file_in_a_leased_folder_or_pattern_is_denied_by_the_name_of_what_is_held(held: str) -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", held)
    bench.settles()
    asked = bench.asks("bob", "src/auth/user.py")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert not answer
    assert [(c.agent_id, c.resource) for c in answer.holders] == [("agent-of-alice", file(held))]
    shown = bench.of("bob").conflicts("agent-of-bob", (file("src/auth/user.py"),), bench.instant)
    assert [(c.kind, c.agent_id, c.resource) for c in shown] == [("lease", "agent-of-alice", file(held))]


def test_a_folder_is_denied_for_a_file_in_it() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "src/auth/user.py", "docs/x.md")
    bench.settles()
    for wanted in ("src/", "src/**", "src/auth", "*/auth/u*"):
        asked = bench.asks("bob", wanted)
        bench.settles()
        answer = bench.answer(asked)
        assert answer is not None
        assert not answer
        assert [c.resource for c in answer.holders] == [file("src/auth/user.py")]
    asked = bench.asks("bob", "src/auth/*.c", "src/authors/", "docs/*.py")
    bench.settles()
    assert bench.granted(asked)


def test_of_two_that_ask_at_once_for_what_overlaps_one_gets_it_and_the_other_waits_its_turn() -> None:
    bench = Bench("alice", "bob", "carol")
    folder = bench.asks("alice", "src/", wait_ms=0)
    pattern = bench.asks("bob", "**/user.py", wait_ms=0)
    bench.settles()
    assert sorted([bench.granted(folder), bench.granted(pattern)]) == [False, True]
    first, second = ("alice", "bob") if bench.granted(folder) else ("bob", "alice")
    bench.releases(first, everything=True)
    bench.settles()
    assert bench.granted(folder)
    assert bench.granted(pattern)
    assert bench[second].held()


def test_who_holds_the_folder_holds_what_is_in_it() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "src/", "docs/**")
    bench.settles()
    (holding,) = bench["alice"].held()
    for names in (("src/a.py",), ("src",), ("src/*.py", "docs/a/b"), ("src/", "docs/x/")):
        asked = bench.asks("alice", *names)
        bench.settles()
        answer = bench.answer(asked)
        assert answer is not None
        assert answer.lease is not None
        assert answer.lease.claim_id == holding.body.id
    for names in (("docs",), ("src/a.py", "lib/a.py"), ("**/a.py",)):
        asked = bench.asks("alice", *names)
        bench.settles()
        assert bench.granted(asked), "an agent is never in its own way"
    assert len(bench["alice"].held()) == 4


def test_a_release_ends_the_lease_of_that_name_and_no_other() -> None:
    bench = Bench("alice", "bob")
    for name in ("src/auth/user.py", "src/auth/", "src/**"):
        bench.asks("bob", name)  # one agent may hold all of them
        bench.settles()
    assert bench.releases("alice", "src/auth/") == [], "never somebody else's"
    assert bench.releases("bob", "src/auth/other.py") == [], "no hole is cut into a folder"
    assert bench.releases("bob", "src/") == [], "what is below stays"
    (ended,) = bench.releases("bob", "src/auth")
    assert ended.resources == (file("src/auth/"),)
    (ended,) = bench.releases("bob", "./src/**")
    assert ended.resources == (file("src/**"),)
    bench.settles()
    assert bench.holders("src/auth/user.py") == ["bob"], "it was leased before, by its own name"


def test_a_part_is_given_back_by_its_exact_name() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "src/", "docs/*.md")
    bench.settles()
    waiting = bench.asks("bob", "docs/a.md", wait_ms=0)
    bench.settles()
    bench.releases("alice", "docs/a.md")
    bench.settles()
    assert bench.answer(waiting) is None
    bench.releases("alice", "docs/*.md")
    bench.settles()
    assert bench.granted(waiting)
    assert [h.body.resources for h in bench["alice"].held()] == [(file("src/"),)]


def test_a_claim_from_the_wire_that_no_client_could_make_harms_nothing() -> None:
    bench = Bench("alice", "bob")
    odd = (Resource("file", "/etc"), Resource("file", "a//b"), Resource("file", "*" * 2_000), Resource("spec", ""))
    body = ClaimBody("bob.1.7", "x", odd, "exclusive", 9, 1, 60_000)
    bench.hears("alice", "bob", Claim(claim=body, round=1, hold_ms=60_000, granted=True))
    asked = bench.asks("alice", "a/b", "./")
    bench.settles()
    assert bench.granted(asked)
    shown = bench.of("alice").conflicts("me", (file("a//b"),), bench.instant)
    assert [c.agent_id for c in shown if c.agent_id == "x"] == ["x"], "it is there by its very name"


def test_check_renew_and_release_through_the_desk() -> None:
    bench = NodeBench()
    bench.asks(AcquireLease(resources=(Resource("file", "src/auth/"),), agent="holder"))
    bench.asks(SetWork(files=("src/*.md", "src/x/*.md"), agent="writer"))
    for path, kinds in {
        "src/auth/user.py": [("lease", "holder", "src/auth/")],
        "./src/auth": [("lease", "holder", "src/auth/")],
        "src/x/a.md": [("work", "writer", "src/x/*.md")],
        "lib/a.py": [],
    }.items():
        result = bench.asks(CheckConflicts(resources=(Resource("file", path),)))
        assert [(c.kind, c.agent_id, c.resource.path) for c in result.conflicts] == kinds, path
    assert bench.asks(CheckConflicts(resources=(Resource("spec", "src/auth/a"),))).conflicts == ()
    (renewed,) = bench.asks(RenewLease(resources=(Resource("file", "src/auth/user.py"),), agent="holder"))
    assert renewed.resources == (Resource("file", "src/auth/"),)
    with pytest.raises(ResourceError, match="magic"):
        bench.asks(CheckConflicts(resources=(Resource("file", ":(top)src"),)))
    assert len(bench.asks(ReleaseLease(resources=(Resource("file", "src/auth"),), agent="holder")).released) == 1
    assert bench.asks(ListLeases(everyone=True)) == []


def test_work_on_a_folder_clashes_with_work_in_it() -> None:
    entries: list[tuple[str, str, Json]] = [
        ("me", "boss", {"files": ["src/"], "startedAt": "x", "updatedAt": "x"}),
        ("me", "helper", {"files": ["docs/a.md"], "startedAt": "x", "updatedAt": "x"}),
        ("peer", "other", {"files": ["src/a.py", "a//b", "/etc"], "startedAt": "x", "updatedAt": "x"}),
    ]

    class Empty:
        def entries(self, _root: str, /) -> object:
            return iter(())

        def get(self, _root: str, _owner: str, _key: str, /) -> None:
            return None

    agents, now = Agents("me", "boss", (), Empty()), Now(0, 0)  # type: ignore[arg-type]
    told = []
    for owner, key, value in entries:
        changes = (EntryChange(root="activeWork", key=key, value=value),)
        told += [note for note in agents.entries_changed(owner, changes, now) if note.type == "conflicts-detected"]  # type: ignore[union-attr]
    assert [(c.agent_id, c.resource.path) for c in agents.work_conflicts("boss", (file("src/*.py"),))] == [("other", "src/a.py")]
    assert [note.agent_id for note in told] == ["boss"]  # type: ignore[union-attr]
