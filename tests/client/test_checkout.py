"""Which commit a release leaves behind (client/checkout.py, asking by askgit.py), in real repositories."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sudocode_coordination.api.requests import ReleaseLease
from sudocode_coordination.askgit import git
from sudocode_coordination.client.checkout import contains, leaving_commit, left_behind, named_commit
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Handover, Lease, Resource


def run(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, path: str, text: str) -> str:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    run(folder, "add", "-A")
    run(folder, "commit", "-qm", f"change {path}")
    return run(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(short_tmp: Path) -> Path:
    folder = short_tmp / "mit Ümlaut"
    subprocess.run(["git", "init", "-q", "-b", "main", folder], check=True)
    return folder


def file(path: str) -> Resource:
    return Resource("file", path)


def test_the_last_commit_that_touched_it(repository: Path) -> None:
    first = commit(repository, "src/a.py", "1")
    second = commit(repository, "src/ü b.py", "1")
    third = commit(repository, "x[1].txt", "1")
    assert left_behind(repository, [file("src/a.py")]) == (first, "main")
    assert left_behind(repository, [file("src/ü b.py")]) == (second, "main")
    assert left_behind(repository, [file("src/a.py"), file("src/ü b.py")]) == (second, "main")
    assert left_behind(repository, [file("src/")]) == (second, "main")
    assert left_behind(repository, [file("**/*.py")]) == (second, "main")
    assert left_behind(repository, [file("./")]) == (third, "main")
    assert left_behind(repository / "src", [file("src/a.py")]) == (first, "main"), "names are from the root, wherever one is"
    assert left_behind(repository, [file("unknown")]) is None
    assert left_behind(repository, [Resource("issue", "#42")]) is None
    assert left_behind(repository, [file(f"src/{n}") for n in range(501)]) == (third, "main")


def test_an_older_commit_does_not_hide_what_the_holder_was_to_build_on(repository: Path) -> None:
    first = commit(repository, "a", "1")
    when = int(run(repository, "show", "-s", "--format=%ct", first))

    def taken(at_s: int, handed: str, path: str = "a") -> Lease:
        since = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        handover = Handover(commit=handed, branch="main", agent_id="ann", at=since)
        return Lease(
            claim_id="c",
            peer_id="p",
            agent_id="ben",
            resources=(file(path),),
            ttl_ms=1,
            remaining_ms=1,
            since=since,
            handover=handover,
        )

    unknown = "1" * 40
    assert left_behind(repository, [file("a")], [taken(when + 5, unknown)]) is None
    assert left_behind(repository, [file("a")], [taken(when - 5, unknown)]) == (first, "main"), "committed while it was held"
    assert left_behind(repository, [file("a")], [taken(when + 5, first)]) == (first, "main"), (
        "the checkout has what was handed over"
    )
    assert left_behind(repository, [file("a")], [taken(when + 5, unknown, "b")]) == (first, "main"), "another lease"
    named = commit(repository, "b", "1")
    assert left_behind(repository, [file("a")], [taken(when + 5, named)]) == (named, "main"), "named though it did not touch it"
    last = commit(repository, "a", "2")
    assert left_behind(repository, [file("a")], [taken(when + 5, named)]) == (last, "main")


def test_a_release_is_completed_with_the_commit_that_it_leaves(repository: Path, short_tmp: Path) -> None:
    def held(path: str) -> Lease:
        return Lease(
            claim_id=path,
            peer_id="p",
            agent_id="ben",
            resources=(file(path),),
            ttl_ms=1,
            remaining_ms=1,
            since="2026-01-31T14:05:00.000Z",
        )

    first, second, _ = (commit(repository, name, "1") for name in "abc")
    one = ReleaseLease(resources=(file("a"),), to_shared=True, branch="given", agent="ben")
    completed = ReleaseLease(resources=(file("a"),), to_shared=True, commit=first, branch="main", agent="ben")
    assert leaving_commit(one, repository, [held("a"), held("b")]) == completed
    everything = ReleaseLease(everything=True, agent="ben")
    completed = ReleaseLease(everything=True, commit=second, branch="main", agent="ben")
    assert leaving_commit(everything, repository, iter([held("a"), held("b")])) == completed, "the latest on what is held"
    assert leaving_commit(everything, repository, []) == everything, "nothing is held"
    assert leaving_commit(ReleaseLease(agent="ben"), repository, [held("a")]) == ReleaseLease(agent="ben"), "nothing is named"
    (short_tmp / "plain").mkdir()
    assert leaving_commit(one, short_tmp / "plain", [held("a")]) == one


def test_without_any_commit_or_repository(repository: Path, short_tmp: Path) -> None:
    assert left_behind(repository, [file("src/a.py")]) is None
    (short_tmp / "plain").mkdir()
    assert left_behind(short_tmp / "plain", [file("a")]) is None


def test_detached_and_bare(repository: Path, short_tmp: Path) -> None:
    first = commit(repository, "a", "1")
    run(repository, "checkout", "-q", "--detach")
    assert left_behind(repository, [file("a")]) == (first, "")
    subprocess.run(["git", "clone", "-q", "--bare", repository, short_tmp / "bare.git"], check=True)
    assert left_behind(short_tmp / "bare.git", [file("a")]) == (first, "main")


def test_named_commits(repository: Path) -> None:
    first = commit(repository, "a", "1")
    run(repository, "branch", "other")
    second = commit(repository, "a", "2")
    run(repository, "tag", "-a", "-m", "x", "v1", first)
    assert named_commit(repository, "other") == (first, "other")
    assert named_commit(repository, "HEAD") == (second, "main")
    assert named_commit(repository, "v1").commit == first
    assert named_commit(repository, second[:8]) == (second, "main")
    for wrong in ("nothing", "--all", "HEAD:a", ""):
        with pytest.raises(UsageError, match="names no commit"):
            named_commit(repository, wrong)


def test_whether_a_checkout_has_it(repository: Path) -> None:
    first = commit(repository, "a", "1")
    run(repository, "checkout", "-qb", "feature")
    second = commit(repository, "a", "2")
    assert contains(repository, first) is True
    assert contains(repository, second) is True
    run(repository, "checkout", "-q", "main")
    assert contains(repository, second) is False
    assert contains(repository, "0" * 40) is False, "not even fetched"
    assert contains(repository.parent, first) is False


def test_git_answers_whatever_happens(repository: Path) -> None:
    assert git(str(repository), "rev-parse", "--is-inside-work-tree").text == "true"
    answer = git(str(repository), "no-such-command")
    assert not answer.ok
    assert "no-such-command" in answer.error


def test_a_shallow_clone_can_not_tell(repository: Path, short_tmp: Path) -> None:
    first = commit(repository, "a", "1")
    second = commit(repository, "a", "2")
    shallow = short_tmp / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", repository.as_uri(), shallow], check=True)
    assert contains(shallow, second) is True
    assert contains(shallow, first) is None
