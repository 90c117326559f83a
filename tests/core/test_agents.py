"""Agents of a clone: who is here, what they work on, what they write and draft."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.api.requests import SetWork
from sudocode_coordination.core import agents as agents_module
from sudocode_coordination.core.agents import MAX_FIELDS, Agents, HybridClock
from sudocode_coordination.core.facts import EntryChange, Notify, Output, Root, Write
from sudocode_coordination.core.io import DiskContents, ForgottenValue, Persist, StoredValue
from sudocode_coordination.errors import ResourceError, UsageError
from sudocode_coordination.model import Json, Now, PeerId, Resource

WALL = 1_800_000_000_000


class Document:
    """The shared document, as a dict."""

    def __init__(self) -> None:
        self.all: dict[tuple[Root, PeerId, str], Json] = {}

    def entries(self, root: Root, /) -> Iterator[tuple[PeerId, str, Json]]:
        return ((owner, key, value) for (r, owner, key), value in self.all.items() if r == root)

    def get(self, root: Root, owner: PeerId, key: str, /) -> Json | None:
        return self.all.get((root, owner, key))


class Clone:
    """The agents of one peer, its default agent "boss", with a document that peers may share."""

    def __init__(self, name: PeerId = "me", document: Document | None = None) -> None:
        self.name = name
        self.document = document or Document()
        self.agents = Agents(name, "boss", ("code",), self.document)
        self.wall = WALL
        self.notes: list[Notify] = []

    @property
    def now(self) -> Now:
        return Now(0, self.wall)

    def does(self, outputs: list[Output]) -> list[Output]:
        """Write what is to be written, and tell the agents."""
        for output in outputs:
            if isinstance(output, Write):
                self.writes(self.name, output.root, output.key, output.value)
        return outputs

    def writes(self, owner: PeerId, root: Root, key: str, value: Json) -> list[Output]:
        if value is None:
            self.document.all.pop((root, owner, key), None)
        else:
            self.document.all[root, owner, key] = value
        return self.hears(owner, root, key, value)

    def hears(self, owner: PeerId, root: Root, key: str, value: Json) -> list[Output]:
        told = self.agents.entries_changed(owner, (EntryChange(root=root, key=key, value=value),), self.now)
        self.notes += [note for note in told if isinstance(note, Notify)]
        return told

    def works(self, agent: str, **work: Any) -> list[Output]:
        return self.does(self.agents.set_work(agent, SetWork(**work), self.now))

    def updates(self, agent: str, **fields: Any) -> list[Output]:
        """Of issue ISSUE-1."""
        return self.does(self.agents.update("issue", agent, "ISSUE-1", fields, self.now))

    def told(self, kind: str) -> list[Notify]:
        return [note for note in self.notes if note.type == kind]


# --- who is here ----------------------------------------------------------------------------------------------------------


def test_the_default_agent_is_here_from_the_start() -> None:
    clone = Clone()
    clone.does(clone.agents.started(DiskContents()))
    assert clone.agents.local == {"boss": ("code",)}
    assert clone.document.get("agentMetadata", "me", "boss") == {"capabilities": ["code"]}


def test_agents_come_with_what_they_offer_and_go() -> None:
    clone = Clone()
    clone.does(clone.agents.attach("helper", ("review",), None))
    clone.does(clone.agents.attach("plain", None, None))
    assert clone.agents.local == {"boss": ("code",), "helper": ("review",), "plain": ("code",)}
    clone.does(clone.agents.attach("helper", None, None))
    assert clone.agents.local["helper"] == ("review",)
    clone.does(clone.agents.attach("helper", ("test",), None))
    assert clone.document.get("agentMetadata", "me", "helper") == {"capabilities": ["test"]}
    clone.works("helper", status="busy")
    clone.does(clone.agents.detach("helper"))
    assert "helper" not in clone.agents.local
    assert clone.document.get("agentMetadata", "me", "helper") is None
    assert clone.agents.work() == []


def test_the_default_agent_never_leaves() -> None:
    clone = Clone()
    clone.works("boss", status="busy")
    clone.does(clone.agents.detach("boss"))
    assert "boss" in clone.agents.local
    assert clone.agents.work() == []
    clone.agents.attach("boss", None, client=1)
    assert clone.agents.leaving(1) == []


def test_a_bound_agent_leaves_with_its_last_connection() -> None:
    clone = Clone()
    clone.agents.attach("bound", None, client=1)
    clone.agents.attach("bound", None, client=2)
    clone.agents.attach("free", None, client=None)
    assert clone.agents.leaving(1) == []
    assert clone.agents.leaving(1) == []
    assert clone.agents.leaving(2) == ["bound"]


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 101, "a\n"])
def test_names_that_cannot_be_file_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Clone().agents.attach(name, None, None)


def test_agents_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents_module, "MAX_AGENTS", 2)
    clone = Clone()
    clone.agents.attach("one", None, None)
    with pytest.raises(UsageError, match="2 agents are attached"):
        clone.agents.attach("two", None, None)
    clone.agents.attach("one", ("x",), None)


# --- active work ----------------------------------------------------------------------------------------------------------


def test_work_is_shown_with_when_it_began() -> None:
    clone = Clone()
    clone.works("boss", files=("./src//a.py",), issues=("I-1",), status="reading")
    clone.wall += 5_000
    clone.works("boss", files=("src/a.py",), status="writing")
    (work,) = clone.agents.work()
    assert (work.files, work.issues, work.status) == (("src/a.py",), (), "writing")
    assert (work.started_at, work.updated_at) == ("2027-01-15T08:00:00.000Z", "2027-01-15T08:00:05.000Z")
    assert clone.agents.work("nobody") == []
    assert [note.type for note in clone.notes] == ["work-started", "work-started"]
    clone.does(clone.agents.clear_work("boss"))
    assert clone.agents.clear_work("boss") == []
    assert clone.notes[-1].type == "work-completed"


def test_work_outside_of_the_repository_is_refused() -> None:
    with pytest.raises(ResourceError):
        Clone().works("boss", files=("/etc/passwd",))


def test_two_on_one_thing_are_told_once() -> None:
    clone = Clone()
    clone.works("boss", files=("a.py",), specs=("s.md",))
    entry: Any = clone.document.get("activeWork", "me", "boss")
    clone.writes("peer", "activeWork", "other", entry)
    (clash,) = clone.told("conflicts-detected")
    assert clash.agent_id == "boss"
    assert [(c["agentId"], c["kind"], c["resource"]) for c in clash.data["conflicts"]] == [
        ("other", "work", ["file", "a.py"]),
        ("other", "work", ["spec", "s.md"]),
    ]
    clone.writes("peer", "activeWork", "other", entry | {"status": "still there"})
    assert len(clone.told("conflicts-detected")) == 1
    clone.writes("peer", "activeWork", "other", None)
    clone.writes("peer", "activeWork", "other", entry)
    assert len(clone.told("conflicts-detected")) == 2, "it was over, and is new"


def test_two_agents_of_one_clone_are_both_told() -> None:
    clone = Clone()
    clone.works("boss", issues=("I-1",))
    clone.works("helper", issues=("I-1", "I-2"))
    assert [note.agent_id for note in clone.told("conflicts-detected")] == ["boss", "helper"]


def test_what_others_do_among_themselves_is_no_clash_here() -> None:
    clone = Clone()
    clone.works("boss", files=("a.py",))
    entry = clone.document.get("activeWork", "me", "boss")
    clone.does(clone.agents.clear_work("boss"))
    clone.writes("one", "activeWork", "x", entry)
    clone.writes("two", "activeWork", "y", entry)
    assert clone.told("conflicts-detected") == []
    assert [c.agent_id for c in clone.agents.work_conflicts("boss", (Resource("file", "a.py"),))] == ["x", "y"]
    assert [c.agent_id for c in clone.agents.work_conflicts("x", (Resource("file", "a.py"),))] == ["x", "y"], "another clone's x"


def test_entries_of_another_shape_are_passed_over() -> None:
    clone = Clone()
    for value in (None, 7, "work", {"files": 1}, {"startedAt": "x"}):
        clone.document.all["activeWork", "peer", "a"] = value
        clone.document.all["issueUpdates", "peer", "a|I"] = value
        clone.document.all["issueUpdates", "peer", "no target"] = {"fields": {}}
        assert clone.agents.work() == []
        assert clone.agents.issues() == []
        clone.hears("peer", "issueUpdates", "a|I", value)


# --- issues and specs -----------------------------------------------------------------------------------------------------


def test_the_last_writer_of_each_field_is_shown() -> None:
    document = Document()
    mine, theirs = Clone("me", document), Clone("they", document)
    mine.updates("boss", status="open", title="A")
    theirs.wall += 10
    theirs.updates("helper", status="done")
    (issue,) = mine.agents.issues()
    assert {name: (f.value, f.agent_id) for name, f in issue.fields.items()} == {
        "status": ("done", "helper"),
        "title": ("A", "boss"),
    }
    assert issue.fields["status"].updated_at == "2027-01-15T08:00:00.010Z"
    assert mine.agents.issues("ISSUE-2") == []
    assert mine.agents.specs() == []


def test_who_has_seen_a_write_writes_after_it_even_with_a_slow_clock() -> None:
    document = Document()
    mine, theirs = Clone("me", document), Clone("they", document)
    theirs.wall += 60_000
    theirs.updates("helper", status="done")
    mine.hears("they", "issueUpdates", "helper|ISSUE-1", document.get("issueUpdates", "they", "helper|ISSUE-1"))
    mine.updates("boss", status="open")
    assert mine.agents.issues()[0].fields["status"].value == "open"


def test_a_clock_more_than_an_hour_ahead_is_not_followed() -> None:
    clock = HybridClock()
    clock.saw(f"{WALL + 3_600_001:015d}.000000", WALL)
    assert clock.tick(WALL) == f"{WALL:015d}.000000"
    clock.saw(f"{WALL + 3_600_000:015d}.000004", WALL)
    assert clock.tick(WALL) == f"{WALL + 3_600_000:015d}.000005"
    for nonsense in ("", "x", "1", "1.x", "x.1", "1.1.1", "²._"):
        clock.saw(nonsense, WALL)


@given(st.lists(st.integers(0, 10**12), min_size=1))
def test_stamps_only_grow_whatever_the_clock_does(walls: list[int]) -> None:
    clock = HybridClock()
    stamps = [clock.tick(wall) for wall in walls]
    assert stamps == sorted(set(stamps))


def test_all_peers_merge_alike_whatever_they_heard_first() -> None:
    writes = [
        (owner, f"{agent}|I", {"fields": {"f": {"value": f"{owner}-{agent}", "at": f"{1:015d}.{count:06d}"}}})
        for owner, agent, count in (("p", "x", 1), ("q", "x", 1), ("p", "y", 1), ("p", "z", 0))
    ]
    seen = set()
    for order in permutations(writes):
        clone = Clone()
        for owner, key, value in order:
            clone.writes(owner, "issueUpdates", key, value)
        seen.add(clone.agents.issues()[0].fields["f"].value)
    assert seen == {"q-x"}, "of one time the greatest author"


def test_none_takes_the_own_value_back_and_only_that() -> None:
    document = Document()
    mine, theirs = Clone("me", document), Clone("they", document)
    theirs.updates("helper", status="open")
    mine.wall += 10
    mine.updates("boss", status="done")
    assert mine.agents.issues()[0].fields["status"].value == "done"
    mine.updates("boss", status=None)
    assert mine.agents.issues()[0].fields["status"].value == "open"
    assert document.get("issueUpdates", "me", "boss|ISSUE-1") is None, "an empty update is no entry"


def test_updates_are_told_with_their_fields() -> None:
    clone = Clone()
    clone.updates("boss", status="open")
    clone.does(clone.agents.update("spec", "boss", "./specs/a.md", {"phase": 2}, clone.now))
    assert [(n.type, n.agent_id, n.data) for n in clone.notes] == [
        ("issue-updated", "boss", {"issueId": "ISSUE-1", "fields": {"status": "open"}}),
        ("spec-updated", "boss", {"specPath": "specs/a.md", "fields": {"phase": 2}}),
    ]
    assert [s.spec_path for s in clone.agents.specs("specs/a.md")] == ["specs/a.md"]


def test_an_update_has_at_least_one_field_and_not_too_many() -> None:
    clone = Clone()
    with pytest.raises(UsageError, match="nothing to update"):
        clone.updates("boss")
    clone.updates("boss", **{f"f{n}": n for n in range(MAX_FIELDS)})
    with pytest.raises(UsageError, match="fields of one issue"):
        clone.updates("boss", more=1)
    clone.updates("boss", f0=None, more=1)


# --- drafts ---------------------------------------------------------------------------------------------------------------


def saved(clone: Clone, agent: str = "boss", kind: Literal["issue", "spec", "note"] = "issue", **fields: Any) -> str:
    draft, outputs = clone.agents.save_draft(agent, kind, "ISSUE-1", fields, clone.now)
    (persist,) = outputs
    assert isinstance(persist, Persist)
    clone.wall += 1
    return draft.draft_id


def test_a_draft_stays_here_until_it_is_published() -> None:
    clone = Clone()
    first, second = saved(clone, status="open", title="A"), saved(clone, status="done")
    assert clone.document.all == {}
    published, outputs = clone.agents.publish_drafts("boss", (first, second, first), False, clone.now)
    clone.does(outputs)
    assert [draft.draft_id for draft in published] == [first, second]
    assert {n: f.value for n, f in clone.agents.issues()[0].fields.items()} == {"status": "done", "title": "A"}
    assert outputs[-1] == Persist(operations=tuple(ForgottenValue(space="drafts", key=id_) for id_ in (first, second)))
    assert clone.agents.drafts(None) == []


def test_drafts_are_published_by_their_agent_and_notes_by_nobody() -> None:
    clone = Clone()
    mine, note, other = saved(clone, f=1), saved(clone, kind="note", f=2), saved(clone, "helper", f=3)
    for wrong in (note, other, "none"):
        with pytest.raises(UsageError, match="no draft that boss can publish"):
            clone.agents.publish_drafts("boss", (mine, wrong), False, clone.now)
    published, _ = clone.agents.publish_drafts("boss", (), True, clone.now)
    assert [draft.draft_id for draft in published] == [mine]
    assert [draft.draft_id for draft in clone.agents.drafts(None)] == [note, other]
    assert [draft.draft_id for draft in clone.agents.drafts("helper")] == [other]
    assert clone.agents.publish_drafts("boss", (), True, clone.now) == ([], [])


def test_what_cannot_be_published_stays_a_draft() -> None:
    clone = Clone()
    clone.updates("boss", **{f"f{n}": n for n in range(MAX_FIELDS)})
    kept = saved(clone, one_more=1)
    with pytest.raises(UsageError, match="fields of one issue"):
        clone.agents.publish_drafts("boss", (kept,), False, clone.now)
    assert [draft.draft_id for draft in clone.agents.drafts(None)] == [kept]


def test_drafts_come_back_from_disk_and_what_cannot_be_read_is_counted() -> None:
    clone = Clone()
    draft, outputs = clone.agents.save_draft("boss", "issue", "I", {"f": 1}, clone.now)
    (persist,) = outputs
    assert isinstance(persist, Persist)
    values = [o for o in persist.operations if isinstance(o, StoredValue)]
    broken = StoredValue(space="drafts", key="x", data=b"{")
    again = Clone()
    again.agents.started(DiskContents(values=(*values, broken)))
    assert again.agents.drafts(None) == [draft]
    assert again.agents.unreadable_drafts == 1
    assert msgspec.json.decode(values[0].data)["draftId"] == draft.draft_id


def test_a_draft_of_after_a_restart_has_an_id_of_its_own() -> None:
    clone = Clone()
    draft, outputs = clone.agents.save_draft("boss", "issue", "I", {"f": 1}, clone.now)
    (persist,) = outputs
    assert isinstance(persist, Persist)
    again = Clone()
    again.agents.started(DiskContents(values=tuple(o for o in persist.operations if isinstance(o, StoredValue))))
    other, _ = again.agents.save_draft("boss", "issue", "I", {"f": 2}, again.now)
    assert other.draft_id != draft.draft_id
    assert len(again.agents.drafts(None)) == 2


def test_drafts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents_module, "MAX_DRAFTS", 1)
    clone = Clone()
    saved(clone, f=1)
    with pytest.raises(UsageError, match="1 drafts"):
        saved(clone, f=2)
