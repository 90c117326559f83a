"""Objects made by hand are git's own, the end of a push is read rightly, and settings survive being copied."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.git_bench import git

from sudocode_coordination.adapters.gitobjects import (
    EMPTY,
    Entry,
    Snapshot,
    count_files,
    differences,
    make_commit,
    object_id,
    parse_tree,
    write_loose,
    write_tree,
)
from sudocode_coordination.adapters.gitpush import Lost, verdict
from sudocode_coordination.adapters.gitrun import GitFailedError, Outcome
from sudocode_coordination.adapters.table_home import config_text

NAMES = st.text("ab.0-", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
CHANGES = st.dictionaries(PATHS, st.none() | st.binary(max_size=3), max_size=8)


def made(parent: Snapshot, changes: dict[str, bytes | None], message: str = "m") -> Snapshot:
    return make_commit(parent, changes, message=message, wall_ms=5_000, algorithm="sha1", sha_size=20).snapshot


def files_of(snapshot: Snapshot) -> dict[str, bytes]:
    return {path: sha for path, sha in differences(EMPTY, snapshot, 20) if sha is not None}


@given(st.lists(CHANGES, max_size=5))
def test_changes_do_to_a_tree_what_they_do_to_a_dictionary(steps: list[dict[str, bytes | None]]) -> None:
    wanted: dict[str, bytes] = {}
    snapshot = EMPTY
    for changes in steps:
        for path, content in changes.items():
            if content is None:
                wanted.pop(path, None)
                continue
            # A file takes the place of a folder, and a folder that of a file.
            wanted = {p: c for p, c in wanted.items() if not p.startswith(path + "/") and not path.startswith(p + "/")}
            wanted[path] = content
        before, snapshot = snapshot, made(snapshot, changes)
        if any(a != b and b.startswith(a + "/") for a in changes for b in changes):
            return  # which of two that exclude each other in one step wins is nobody's business
        expected = {path: object_id("blob", content, "sha1") for path, content in wanted.items()}
        assert files_of(snapshot) == expected
        assert count_files(snapshot) == len(expected)
        told = dict(differences(before, snapshot, 20))
        known = files_of(before)
        assert {**{p: s for p, s in known.items() if p not in told}, **{p: s for p, s in told.items() if s}} == expected


def test_git_takes_the_objects_for_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "r.git")
    repository = tmp_path / "r.git"
    first = make_commit(EMPTY, {"a.b": b"1", "a/x": b"2", "a0": b"3"}, message="one", wall_ms=1_999, algorithm="sha1", sha_size=20)
    then = make_commit(first.snapshot, {"a/x": None, "b/y/z": b""}, message="two", wall_ms=-5, algorithm="sha1", sha_size=20)
    for commit in (first, then):
        write_loose(repository / "objects", commit.objects)
        write_loose(repository / "objects", commit.objects)
        git(repository, "fsck", "--strict", str(commit.snapshot.commit))
    assert git(repository, "ls-tree", "-r", "--name-only", str(then.snapshot.commit)).split() == ["a.b", "a0", "b/y/z"]
    assert git(repository, "log", "--format=%ct %s", str(then.snapshot.commit)) == "0 two\n1 one"
    assert [kind for kind, _ in then.objects.values()].count("tree") == 3, "only what changed"


def test_the_same_values_are_the_same_commit_and_others_are_not() -> None:
    first = made(EMPTY, {"a": b"1"})
    assert made(EMPTY, {"a": b"1"}).commit == first.commit
    others = {made(EMPTY, {"a": b"1"}, "other").commit, made(EMPTY, {"a": b"2"}).commit, made(first, {"a": b"1"}).commit}
    assert len(others | {first.commit}) == 4


def test_trees_survive_a_round() -> None:
    entries = {b"a": Entry(b"40000", b"t" * 20), b"a.": Entry(b"100644", b"\0" * 20), b"a0": Entry(b"160000", b" " * 20)}
    raw = write_tree(entries)
    assert parse_tree(raw, 20) == entries
    assert list(parse_tree(raw, 20)) == [b"a.", b"a", b"a0"]
    for cut in range(1, len(raw)):
        if cut not in (30, 58):  # after a whole entry
            with pytest.raises(GitFailedError):
                parse_tree(raw[:cut], 20)


def refusal(summary: str, stderr: str = "") -> Lost:
    return verdict(Outcome(1, f"To there\n!\tx:refs/r\t{summary}\nDone\n".encode(), stderr))


@pytest.mark.parametrize(
    ("summary", "kind"),
    [
        ("[rejected] (stale info)", "moved"),
        ("[rejected] (fetch first)", "moved"),
        ("[rejected] (non-fast-forward)", "moved"),
        ("[remote rejected] (failed to update ref)", "moved"),
        ("[remote rejected] (incorrect old value provided)", "moved"),
        ("[remote rejected] (cannot lock ref 'refs/r': is at 1 but expected 2)", "moved"),
        ("[remote rejected] (pre-receive hook declined)", "refused"),
        ("[remote rejected] (hook declined)", "refused"),
        ("[remote rejected] (deny updating a hidden ref)", "refused"),
        ("[remote rejected] (protected branch hook declined)", "refused"),
        ("[remote failure] (remote failed to report status)", "unknown"),
        ("[remote rejected] (unpacker error)", "unknown"),
    ],
)
def test_what_the_remote_says_of_a_ref(summary: str, kind: str) -> None:
    assert refusal(summary).kind == kind


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("fatal: Authentication failed for 'https://x/'", "refused"),
        (
            "remote: Permission to a/b.git denied to me.\nfatal: unable to access 'x': The requested URL returned error: 403",
            "refused",
        ),
        ("error: RPC failed; HTTP 413 curl 22 The requested URL returned error: 413", "refused"),
        ("error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502", "unknown"),
        ("error: RPC failed; HTTP 429 curl 22 The requested URL returned error: 429", "unknown"),
        ("fatal: the remote end hung up unexpectedly", "unknown"),
        ("ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository.", "unknown"),
    ],
)
def test_what_git_says_when_the_remote_says_nothing(stderr: str, kind: str) -> None:
    lost = verdict(Outcome(128, b"", stderr))
    assert lost.kind == kind
    assert not lost.policy, "another ref would fare no better"


def test_a_lock_that_only_the_complaint_names_is_contention() -> None:
    assert refusal("[remote rejected] (failed)", "remote: error: cannot lock ref 'refs/r': File exists").kind == "moved"


VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["http.proxy", 'url.a b"\\]c.insteadof', "core.sshcommand"]), VALUES), max_size=5))
def test_settings_survive_being_copied(settings: list[tuple[str, str]]) -> None:
    text = config_text([*settings, ("http.sslverify", None)], "origin", "sha256")
    listed = subprocess.run(["git", "config", "-z", "--file", "-", "--list"], input=text.encode(), capture_output=True, check=True)
    found = [item.partition("\n") for item in listed.stdout.decode().split("\0") if item]
    assert [(key, value) for key, _, value in found][: len(settings)] == settings
    assert ("http.sslverify", "", "") in found


def test_only_what_leads_to_the_remote_is_copied() -> None:
    settings: list[tuple[str, str | None]] = [
        ("remote.origin.url", "one"),
        ("remote.origin.url", "two"),
        ("remote.origin.fetch", "+refs/*:refs/*"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.proxy", "p"),
        ("remote.other.url", "x"),
        ("core.worktree", "w"),
        ("core.bare", "false"),
        ("core.hookspath", "h"),
        ("push.pushoption", "o"),
        ("push.gpgsign", "true"),
        ("user.name", "n"),
    ]
    text = config_text(settings, "origin", "sha1")
    assert [line.strip() for line in text.splitlines() if "=" in line] == [
        'proxy = "p"',
        'pushoption = "o"',
        'url = "one"',
        "repositoryformatversion = 0",
        "bare = true",
        "filemode = true",
    ]
    pushing = config_text([*settings, ("remote.origin.pushurl", "three"), ("remote.origin.pushurl", "four")], "origin", "sha1")
    assert [line.strip() for line in pushing.splitlines() if "url =" in line] == ['url = "three"', 'pushurl = "three"']
