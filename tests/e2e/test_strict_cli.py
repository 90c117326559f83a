"""Strict leases, fenced pushes, hand-over and history as people meet them: two clones, real daemons, a real remote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.clones import QUICK, Clone, connected, repository, wait_for

TABLE = "refs/coordination/leases"


@pytest.fixture
def pair() -> Iterator[tuple[Clone, Clone]]:
    with repository("alice", "bob") as (alice, bob):
        alice.start()
        bob.start()
        wait_for("they meet", lambda: connected(alice, bob), 20.0)
        yield alice, bob


def remote(clone: Clone, *arguments: str) -> str:
    """git in the bare repository that both push to."""
    folder = clone.folder.parent / "remote.git"
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def work(clone: Clone, path: str, text: str) -> str:
    """A commit in the clone."""
    (clone.folder / path).write_text(text)
    clone.git("add", "-A")
    clone.git("commit", "-qm", f"{clone.name} writes {path}")
    return clone.git("rev-parse", "HEAD").strip()


def held(clone: Clone) -> list[dict[str, Any]]:
    leases: list[dict[str, Any]] = clone.json("leases")["leases"]
    return leases


def test_a_token_a_denial_and_a_fenced_push(pair: tuple[Clone, Clone]) -> None:
    alice, bob = pair
    taken = alice.json("lease", "src/auth.py", "--strict", "--note", "refactor")
    first = taken["lease"]["token"]
    assert taken["lease"]["grade"] == "strict"
    assert f"strict {first}" in alice.coord("leases").stdout
    denied = bob.json("lease", "src/auth.py", "--strict", expect=3)
    assert denied["holders"][0]["agentId"] == "alice"
    assert bob.json("lease", "src/auth.py", expect=3)["holders"][0]["agentId"] == "alice", "a fast one is in its way as well"
    other = bob.json("lease", "src/other.py", "--strict")["lease"]["token"]
    assert other > first

    head = work(alice, "src/auth.py", "new\n")
    pushed = alice.json("push", "origin", "HEAD:main")
    assert [lease["token"] for lease in pushed["leases"]] == [first]
    assert remote(alice, "rev-parse", "main") == head
    assert remote(alice, "rev-parse", TABLE) == pushed["commit"]
    assert "no strict lease is held" in bob_pushes_nothing(bob)

    alice.coord("release", "src/auth.py")
    third = bob.json("lease", "src/auth.py", "--strict", "--wait", "20s")["lease"]["token"]
    assert third > other
    assert remote(alice, "rev-list", "--count", TABLE).isdigit()
    assert alice.git("for-each-ref", "refs/coordination") == "", "the user's repository has no ref of the table"


def bob_pushes_nothing(bob: Clone) -> str:
    bob.coord("release", "--all")
    work(bob, "bob.txt", "x\n")
    return bob.coord("push", "origin", "HEAD:refs/heads/bobs").stderr


def test_a_stale_holder_publishes_nothing(pair: tuple[Clone, Clone]) -> None:
    alice, bob = pair
    assert alice.json("lease", "src/auth.py", "--strict")["granted"]
    work(alice, "src/auth.py", "stale\n")
    before = remote(alice, "rev-parse", "main")
    taken = bob.json("lease", "src/auth.py", "--strict", "--priority", "9", "--wait", "30s")
    assert taken["granted"] is True
    wait_for("alice is told", lambda: alice.events("lease-lost"))
    assert held(alice) == []
    refused = alice.coord("push", "origin", "HEAD:main", expect=None)
    assert "no strict lease is held" in refused.stderr or refused.returncode == 3
    assert remote(alice, "rev-parse", "main") in (before, alice.git("rev-parse", "HEAD").strip())


def test_a_killed_holder_s_table_entry_is_taken_over(pair: tuple[Clone, Clone]) -> None:
    alice, bob = pair
    first = alice.json("lease", "src/auth.py", "--strict", "--ttl", "3s")["lease"]["token"]
    alice.kill()
    taken = bob.json("lease", "src/auth.py", "--strict", "--wait", "50s")
    assert taken["granted"] is True
    assert taken["lease"]["token"] > first
    alice.start(*QUICK)
    assert held(alice) == []

    # And nothing that alice made of it is published, until she lets it go.
    before = remote(alice, "rev-parse", "main")
    work(alice, "src/auth.py", "stale\n")
    refused = alice.json("push", "origin", "HEAD:main", expect=3)["error"]
    assert refused["code"] == "held"
    assert f"token {first}, restarted" in refused["message"]
    assert remote(alice, "rev-parse", "main") == before
    told = alice.json("release", "src/auth.py")
    assert told["released"] == []
    assert [(one["resources"], one["token"], one["reason"]) for one in told["letGo"]] == [
        ([["file", "src/auth.py"]], first, "restarted")
    ]
    assert "no strict lease is held" in alice.coord("push", "origin", "HEAD:main").stderr


def test_what_is_left_behind_reaches_the_next_holder(pair: tuple[Clone, Clone]) -> None:
    alice, bob = pair
    assert alice.json("lease", "src/auth.py")["lease"].get("handover") is None
    head = work(alice, "src/auth.py", "better\n")
    alice.git("push", "-q", "origin", "HEAD:main")
    assert f"left behind for whoever takes it next: {head[:10]}" in alice.coord("release", "src/auth.py").stdout
    taken = wait_for("it is free", lambda: bob.json("lease", "src/", expect=None))
    assert taken["lease"]["handover"]["commit"] == head
    assert taken["lease"]["handover"]["agentId"] == "alice"
    assert taken["handoverContained"] is False
    bob.coord("release", "src/", "--no-commit")
    shown = bob.coord("lease", "src/auth.py").stdout
    assert "this checkout does not contain it yet" in shown
    bob.git("pull", "-q", "origin", "main")
    bob.coord("release", "src/auth.py", "--no-commit")
    assert "this checkout has it" in bob.coord("lease", "src/auth.py").stdout


def test_who_held_it_when(pair: tuple[Clone, Clone]) -> None:
    alice, bob = pair
    alice.coord("lease", "src/auth.py")
    alice.coord("release", "src/auth.py", "--no-commit")
    wait_for("it is free", lambda: bob.json("lease", "src/auth.py", expect=None)["granted"])

    def history() -> list[tuple[str, bool]]:
        entries = alice.json("leases", "--history", "src/auth.py")["history"]
        return [(entry["agentId"], entry["endedAt"] is None) for entry in entries]

    wait_for("both are in it", lambda: history() == [("bob", True), ("alice", False)])
    assert history() == [("bob", True), ("alice", False)]
    shown = bob.coord("leases", "--history", "src/").stdout
    assert "alice" in shown
    assert "released" in shown
    assert bob.json("leases", "--history", "src/auth.py", "--at", "2020-01-01T00:00:00Z")["history"] == []
    assert [entry["agentId"] for entry in alice.json("leases", "--history")["history"]] == ["bob", "alice"], "of everything"
    assert bob.json("leases", "--history", "", expect=2)["error"]["code"] == "resource", "an empty name is none, here too"
    error = bob.json("leases", "--at", "2020-01-01T00:00:00Z", expect=2)["error"]
    assert "--history" in error["message"]


def test_a_push_that_git_refuses_is_told_and_the_lease_stays(pair: tuple[Clone, Clone]) -> None:
    alice, bob = pair
    work(bob, "b.txt", "first\n")
    bob.git("push", "-q", "origin", "HEAD:main")
    alice.coord("lease", "src/auth.py", "--strict")
    work(alice, "src/auth.py", "behind\n")
    refused = alice.coord("push", "origin", "HEAD:main", expect=1)
    assert "nothing was pushed" in refused.stderr
    error = alice.json("push", "origin", "HEAD:main", expect=1)["error"]
    assert "fetch first" in error["message"], "with --json nothing is above it"
    assert [lease["grade"] for lease in held(alice)] == ["strict"]
    alice.git("pull", "-q", "--rebase", "origin", "main")
    alice.coord("push", "origin", "HEAD:main")
    assert remote(alice, "rev-parse", "main") == alice.git("rev-parse", "HEAD").strip()


def test_without_the_remote_it_says_so(pair: tuple[Clone, Clone]) -> None:
    alice, _ = pair
    there = Path(alice.folder.parent / "remote.git")
    there.rename(there.with_name("away.git"))
    refused = alice.json("lease", "src/auth.py", "--strict", expect=None)
    assert not refused.get("granted")
    assert "remote" in str(refused)
    assert alice.json("lease", "src/other.py")["granted"] is True, "fast leases go on"
    there.with_name("away.git").rename(there)
    assert alice.json("lease", "src/auth.py", "--strict", "--wait", "60s")["granted"] is True
