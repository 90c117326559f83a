"""Drafts and live updates become files of the repository, on a branch, without touching the checkout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.clones import Clone, connected, repository, wait_for

from sudocode_coordination.cli.committed import Target, committed_fields, in_list, in_markdown, path_of
from sudocode_coordination.errors import CoordinationError

pytestmark = pytest.mark.usefixtures("warm_daemons")

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ISSUE = Target("issue", "ISSUE-7")
SPEC = Target("spec", "specs/auth.md")


# --- texts ------------------------------------------------------------------------------------------------------------------


def test_fields_of_a_listed_issue_are_written_into_its_line_and_the_rest_stays_to_the_letter() -> None:
    other = '{"id": "ISSUE-1",  "odd":1.50}'
    mine = '{"id":"ISSUE-7","uuid":"u","title":"old","priority":0,"extra":{"a":[1,2]}}'
    text = in_list(f"{other}\n{mine}\n", ISSUE, {"title": "new", "status": "closed"}, NOW)
    first, second = text.splitlines()
    assert first == other
    entry = json.loads(second)
    assert (entry["title"], entry["status"], entry["extra"], entry["closed_at"]) == (
        "new",
        "closed",
        {"a": [1, 2]},
        entry["updated_at"],
    )
    assert in_list(text, ISSUE, {"title": "new", "status": "closed"}, NOW) == text


def test_what_is_not_listed_is_added() -> None:
    entry = json.loads(in_list("", ISSUE, {"title": "t"}, NOW))
    assert (entry["id"], entry["title"], entry["status"]) == ("ISSUE-7", "t", "open")
    spec = json.loads(in_list("", Target("spec", "specs/auth.md"), {"content": "x"}, NOW))
    assert (spec["id"], spec["file_path"], spec["content"]) == ("auth", "specs/auth.md", "x")


def test_a_broken_list_is_not_written() -> None:
    with pytest.raises(CoordinationError, match="line 2"):
        in_list('{"id":"x"}\n{"id":\n', ISSUE, {"title": "t"}, NOW)


def test_front_matter_keeps_what_is_not_written() -> None:
    text = "---\nid: spec-1\ntags: [a, b]\nblocks:\n  - x\n  - y\ntitle: old\n---\n\n# Auth\n\nBody.\n"
    new = in_markdown(text, SPEC, {"title": "true", "blocks": ["z"], "status": "in-progress"})
    assert new == '---\nid: spec-1\ntags: [a, b]\nblocks: ["z"]\ntitle: "true"\nstatus: in-progress\n---\n\n# Auth\n\nBody.\n'
    assert in_markdown(new, SPEC, {"status": "in-progress"}) == new
    assert in_markdown(new, SPEC, {"content": "Other.\n\n"}).endswith("---\n\nOther.\n")


def test_a_file_without_front_matter_gets_some() -> None:
    assert in_markdown("# Auth\n", SPEC, {"status": "draft"}) == "---\nstatus: draft\n---\n\n# Auth\n"
    assert (
        in_markdown(None, ISSUE, {"title": "Refresh: tokens"})
        == '---\nid: ISSUE-7\ntitle: "Refresh: tokens"\n---\n\n# Refresh: tokens\n'
    )
    assert in_markdown("---\nnot closed\n", SPEC, {"a": 1}) == "---\na: 1\n---\n\n---\nnot closed\n"


def test_names() -> None:
    assert committed_fields({"tempTitle": 1, "temperature": 2, "x": 3}) == {"title": 1, "temperature": 2, "x": 3}
    assert path_of(Target("issue", "#42"), listed=False) == "issues/42.md"
    assert path_of(Target("issue", "../../x"), listed=False) == "issues/x.md"
    assert path_of(SPEC, listed=False) == "specs/auth.md"
    assert path_of(SPEC, listed=True) == ".sudocode/specs.jsonl"


@given(
    st.dictionaries(
        st.text(alphabet="abcXYZ_", min_size=1, max_size=6), st.text(max_size=12) | st.integers() | st.lists(st.booleans())
    ),
    st.text(alphabet="ab\n-#: ", max_size=30),
)
def test_what_is_written_twice_is_written_once(fields: dict[str, object], text: str) -> None:
    once = in_markdown(text, SPEC, fields)
    assert in_markdown(once, SPEC, fields) == once
    listed = in_list("", ISSUE, fields, NOW)
    assert in_list(listed, ISSUE, fields, NOW) == listed or "id" in fields or "uuid" in fields


# --- a repository -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swarm() -> Iterator[tuple[Clone, Clone]]:
    with repository("alice", "bob") as (alice, bob):
        alice.start()
        bob.start()
        wait_for("they meet", lambda: connected(alice, bob), 20.0)
        yield alice, bob


def test_drafts_and_live_updates_become_a_commit_and_the_checkout_stays(swarm: tuple[Clone, Clone]) -> None:
    alice, bob = swarm
    bob.coord("issue", "update", "#42", "--status", "in-progress")
    wait_for("alice sees it", lambda: "in-progress" in alice.coord("issue", "show").stdout)
    alice.coord("issue", "update", "#42", "--title", "Token refresh", "--draft")
    alice.coord("spec", "update", "specs/auth.md", "--title", "Auth, second try", "--draft")
    (alice.folder / "src" / "auth.py").write_text("dirty\n")
    before = (
        alice.git("status", "--porcelain=v2", "--branch"),
        alice.git("rev-parse", "HEAD"),
        (alice.folder / ".git" / "index").read_bytes(),
    )
    done = alice.json("draft", "commit", "--branch", "specs/refresh", "-m", "Refresh: specs")
    assert done["files"] == ["issues/42.md", "specs/auth.md"]
    after = (
        alice.git("status", "--porcelain=v2", "--branch"),
        alice.git("rev-parse", "HEAD"),
        (alice.folder / ".git" / "index").read_bytes(),
    )
    assert after == before
    text = alice.git("show", "specs/refresh:issues/42.md")
    assert "title: Token refresh" in text
    assert "status: in-progress" in text
    assert alice.git("log", "-1", "--format=%s %P", "specs/refresh").split() == ["Refresh:", "specs", before[1].strip()]
    assert alice.json("draft", "list")["drafts"] == []
    assert alice.git("show", "specs/refresh:src/auth.py") == "pass\n"
    assert alice.json("draft", "commit", "--branch", "specs/refresh")["commit"] is None, "the branch has it"


def test_a_branch_that_is_checked_out_is_refused_and_what_is_nothing_is_told(swarm: tuple[Clone, Clone]) -> None:
    alice, _ = swarm
    alice.coord("issue", "update", "#43", "--title", "x", "--draft")
    branch = alice.git("symbolic-ref", "--short", "HEAD").strip()
    assert "is checked out" in alice.coord("draft", "commit", "--branch", branch, expect=2).stderr
    assert "no name of a branch" in alice.coord("draft", "commit", "--branch", "a..b", expect=2).stderr
    assert "is no draft" in alice.coord("draft", "commit", "--branch", "b", "#99", expect=2).stderr
    assert alice.json("draft", "commit", "--branch", "one", "#43")["files"] == ["issues/43.md"]
    alice.coord("draft", "drop", "--all")


def test_what_could_not_be_kept_is_not_written(swarm: tuple[Clone, Clone]) -> None:
    _, bob = swarm
    (bob.folder / "latin.md").write_bytes(b"Stra\xdfe\n")
    (bob.folder / "link.md").symlink_to("latin.md")
    bob.git("add", "latin.md", "link.md")
    bob.git("commit", "-qm", "old")
    for name, why in (("latin.md", "is no UTF-8 text"), ("link.md", "is a link")):
        bob.coord("spec", "update", name, "--title", "x", "--draft")
        assert f"{name} {why}" in bob.coord("draft", "commit", "--branch", "kept", name, expect=1).stderr
    for issue in ("a b", "a-b"):
        bob.coord("issue", "update", issue, "--title", issue, "--draft")
    assert "are both issues/a-b.md" in bob.coord("draft", "commit", "--branch", "kept", "a b", "a-b", expect=2).stderr
    assert not bob.git("branch", "--list", "kept")
    bob.coord("draft", "drop", "--all")


def test_sudocode_s_lists_are_used_where_they_are() -> None:
    with repository("carol") as (carol,):
        carol.start()
        assert "nothing to commit" in carol.coord("draft", "commit", "--branch", "none", expect=2).stderr
        assert "none" not in carol.git("branch", "--list", "none")
        lists = carol.folder / ".sudocode"
        lists.mkdir(exist_ok=True)
        (lists / "issues.jsonl").write_text('{"id":"ISSUE-7","uuid":"u","title":"old","status":"open"}\n')
        carol.git("add", ".sudocode")
        carol.git("commit", "-qm", "issues")
        carol.coord("issue", "update", "ISSUE-7", "--set", "tempTitle=new")
        carol.git("remote", "rename", "origin", "upstream")
        carol.coord("stop")
        carol.start("--remote", "upstream")
        assert "next: git push upstream 'a&b'" in carol.coord("draft", "commit", "--branch", "a&b", "ISSUE-7").stdout
        done = carol.json("draft", "commit", "--branch", "listed", "ISSUE-7", "--clear")
        assert done["files"] == [".sudocode/issues.jsonl"]
        entry = json.loads(carol.git("show", "listed:.sudocode/issues.jsonl"))
        assert (entry["title"], entry["status"], entry["uuid"]) == ("new", "open", "u")
        assert carol.json("issue", "show", "ISSUE-7")["issues"] == [], "--clear takes the live value back"
