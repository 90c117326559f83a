"""The lease table's objects: hostile and odd tables, and the bare repository of our own that they are kept in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.conformance.git_bench import Loop, git, make_remote
from tests.conformance.table_bench import TableHandle, clone_of, handle_of, landed, lost, reason, table, table_on, tip_of, works

from sudocode_coordination.adapters import table_trees
from sudocode_coordination.adapters.git_table import REF
from sudocode_coordination.adapters.table_trees import MAX_FILE_BYTES
from sudocode_coordination.core.io import TableBuilt, TableRead, TableReadFailed, TableSwapFailed, TableSwapped

# --- what is in a table ---------------------------------------------------------------------------------------------------------


def by_hand(bare: Path, entries: dict[str, tuple[str, bytes]], *, parent: str | None = None) -> str:
    """A commit that somebody with other tools puts there: path -> (mode, content)."""
    index = {"GIT_INDEX_FILE": str(bare / "index.test")}
    git(bare, "read-tree", "--empty", environment=index)
    for path, (mode, content) in entries.items():
        sha = content.decode() if mode == "160000" else git(bare, "hash-object", "-w", "--stdin", stdin=content)
        git(bare, "update-index", "-z", "--index-info", stdin=f"{mode} {sha}\t{path}\0".encode(), environment=index)
    tree = git(bare, "write-tree", environment=index)
    commit = git(bare, "commit-tree", *(["-p", parent] if parent else []), "-m", "by hand", tree)
    git(bare, "update-ref", REF, commit)
    return commit


def test_what_is_no_plain_file_or_too_large_is_kept_and_not_read(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    main = git(bare, "rev-parse", "main").encode()
    odd = {
        "a/link": ("120000", b"/etc/passwd"),
        "a/module": ("160000", main),
        "a/large": ("100644", b"x" * (MAX_FILE_BYTES + 1)),
        "1/2/3/4/5/deep": ("100644", b"d"),
    }
    commit = by_hand(bare, {**odd, "a/x": ("100755", b"1"), "a/full": ("100644", b"y" * MAX_FILE_BYTES)})
    handle = handle_of(loop, tmp_path, bare)
    given = table(handle.read())
    assert set(given.changed) == {"a/x", "a/full"}
    second = landed(handle.swap(commit, {"a/y": b"2"}))
    listing = git(bare, "ls-tree", "-r", "--name-only", second).splitlines()
    assert sorted(listing) == sorted([*odd, "a/x", "a/full", "a/y"])
    third = by_hand(bare, {"a/x": ("100644", b"z" * (MAX_FILE_BYTES + 1))}, parent=second)
    given = table(handle.read())
    assert given.commit == third
    assert given.changed["a/x"] is None, "what it was is not so any more"


def test_a_table_with_too_many_files_is_an_error(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = make_remote(tmp_path)
    blob = git(bare, "hash-object", "-w", "--stdin", stdin=b"x")
    tree = git(bare, "mktree", stdin=b"".join(f"100644 blob {blob}\tf{n:03}\n".encode() for n in range(100)))
    # The same folder a million times over takes four objects.
    for _ in range(3):
        tree = git(bare, "mktree", stdin=b"".join(f"040000 tree {tree}\td{n:02}\n".encode() for n in range(30)))
    git(bare, "update-ref", REF, git(bare, "commit-tree", "-m", "bomb", tree))
    handle = handle_of(loop, tmp_path, bare)
    assert "2700000 files" in reason(handle.read())
    monkeypatch.setattr(table_trees, "MAX_TREE_BYTES", 1_000)
    assert "bytes" in reason(handle_of(loop, tmp_path, bare, "other").read())


def test_a_malformed_table_is_a_failure_and_no_crash(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    tree = git(bare, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=b"40000 a")
    body = f"tree {tree}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx\n"
    hostile = git(bare, "hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body.encode())
    (bare / "refs/coordination").mkdir()
    (bare / REF).write_text(hostile + "\n", "utf-8")
    handle = handle_of(loop, tmp_path, bare)
    assert isinstance(handle.read(), TableReadFailed)
    assert isinstance(handle.swap(hostile, {"a/x": b"1"}), TableSwapFailed)
    git(bare, "update-ref", "-d", REF)
    works(handle, bare)


@pytest.mark.parametrize("path", ["", "/x", "a//b", "../x", "a/./b", ".git/config", "a/.GIT/b", "a/b/c/d/e/f", "nul\0"])
def test_paths_that_git_would_not_take_are_refused(tmp_path: Path, loop: Loop, path: str) -> None:
    handle = handle_of(loop, tmp_path, make_remote(tmp_path))
    assert lost(handle.swap(None, {path: b"1"})) == "refused"


def test_content_that_readers_would_skip_is_refused(tmp_path: Path, loop: Loop) -> None:
    handle = handle_of(loop, tmp_path, make_remote(tmp_path))
    assert lost(handle.swap(None, {"a/x": b"x" * (MAX_FILE_BYTES + 1)})) == "refused"


def test_commits_are_what_git_takes_for_sound(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    git(bare, "config", "receive.fsckObjects", "true")
    handle = handle_of(loop, tmp_path, bare)
    # Names whose order as files differs from that as folders, and back.
    first = landed(handle.swap(None, {"a.b": b"1", "a/x": b"1", "a0": b"1", "ab/y": b"1", "ü": b"1"}))
    second = landed(handle.swap(first, {"a/x": None, "a": b"now a file", "a0": None, "a0/z": b"now a folder"}))
    assert table_on(bare) == {"a.b": b"1", "a": b"now a file", "a0/z": b"now a folder", "ab/y": b"1", "ü": b"1"}
    git(bare, "fsck", "--strict", second)
    shown = git(bare, "log", "--format=%an <%ae> %ct %cn %B", "-1", REF)
    assert shown.startswith("sudocode coordination <coordination@sudocode.invalid> 1800000000 sudocode coordination Change leases")


# --- our own repository ---------------------------------------------------------------------------------------------------------


def test_a_new_clone_does_not_fetch_the_past(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    one = handle_of(loop, tmp_path, bare)
    tip = None
    for n in range(6):
        tip = landed(one.swap(tip, {"a/x": b"%d" % n}))
    other = handle_of(loop, tmp_path, f"file://{bare}", "other")
    assert table(other.read()).commit == tip
    assert git(other.folder, "rev-list", "--count", "refs/table/tip") == "1"
    tip = landed(other.swap(tip, {"a/y": b"from a shallow one"}))
    given = table(one.read())
    assert (given.commit, given.rewound) == (tip, False)
    tip = landed(one.swap(tip, {"a/z": b"1"}))
    assert (table(other.read()).commit, given.rewound) == (tip, False)
    # Back to before what it has ever seen.
    git(bare, "update-ref", REF, f"{tip}~5")
    given = table(other.read())
    assert given.rewound
    assert table(other.read(whole=True)).changed == table_on(bare)


def test_a_rewind_while_the_daemon_was_down_shows(tmp_path: Path, loop: Loop) -> None:
    bare = make_remote(tmp_path)
    one = handle_of(loop, tmp_path, bare)
    first = landed(one.swap(None, {"a/x": b"1"}))
    landed(one.swap(first, {"a/x": b"2"}))
    git(bare, "update-ref", REF, first)
    again = TableHandle(loop, tmp_path / "clone" / ".git")
    assert table(again.read()) == TableRead(commit=first, changed={"a/x": b"1"}, ref=REF, rewound=True)


@pytest.mark.parametrize("harm", ["wiped", "emptied", "truncated"])
def test_damage_heals_from_the_remote(tmp_path: Path, loop: Loop, harm: str) -> None:
    bare = make_remote(tmp_path)
    one = handle_of(loop, tmp_path, bare)
    tip = landed(one.swap(None, {"a/x": b"1"}))
    table(one.read())  # it has written what it writes behind an answer
    again = TableHandle(loop, tmp_path / "clone" / ".git")
    if harm == "wiped":
        subprocess.run(["rm", "-rf", str(one.folder)], check=True)
    for path in list(one.folder.rglob("objects/??/*")):
        path.chmod(0o644)
        path.write_bytes(b"" if harm == "emptied" else path.read_bytes()[:5])
    for handle in (one, again):
        # As the core does it: what failed is read again and tried again.
        for last in (False, True):
            handle.read()
            given = handle.read()
            assert table(given).commit == tip
            assert not table(given).rewound
            outcome = handle.swap(tip, {"a/y": b"%d" % last})
            if isinstance(outcome, TableSwapped) or last:
                break
            assert outcome.kind == "unknown"
        tip = landed(outcome)
    assert table(one.read()).commit == tip


def test_objects_are_packed_when_they_pile_up(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = make_remote(tmp_path)
    one = handle_of(loop, tmp_path, f"file://{bare}")
    tip = None
    for n in range(5):
        tip = landed(one.swap(tip, {"a/x": b"%d" % n}))
    monkeypatch.setattr(type(one.table._home), "wants_packing", lambda _self: True)
    built = one.build(tip, {"a/y": b"1"})
    assert table(one.read()).commit == tip
    monkeypatch.undo()
    assert table(one.read()).commit == tip, "packing is over when the next one is read"
    assert git(one.folder, "rev-list", "--count", "refs/table/tip") == "1"
    assert isinstance(built, TableBuilt)
    git(one.folder, "cat-file", "-e", f"{built.commit}^{{tree}}")
    assert landed(one.swap(tip, {"a/z": b"1"})) == tip_of(bare)
    assert not table(one.read()).rewound


@pytest.mark.parametrize("shallow", [False, True])
def test_a_built_commit_goes_with_the_work_or_not_at_all(tmp_path: Path, loop: Loop, shallow: bool) -> None:
    bare = make_remote(tmp_path)
    one = handle_of(loop, tmp_path, f"file://{bare}")
    tip = landed(one.swap(None, {"a/x": b"1"}))
    for n in range(3):
        tip = landed(one.swap(tip, {"a/x": b"%d" % n}))
    clone = tmp_path / "clone"
    if shallow:
        clone = clone_of(f"file://{bare}", tmp_path, "other")
        one = TableHandle(loop, clone / ".git")
        assert table(one.read()).commit == tip
    built = one.build(tip, {"a/x": b"fenced"})
    assert isinstance(built, TableBuilt)
    git(clone, "commit", "-q", "--allow-empty", "-m", "work")
    push = ["git", "push", "--atomic", f"--force-with-lease={built.ref}:{tip}", "origin"]
    specs = ["HEAD:refs/heads/work", f"{built.commit}:{built.ref}"]
    alternate = {**os.environ, "GIT_ALTERNATE_OBJECT_DIRECTORIES": built.objects}
    subprocess.run([*push, *specs], cwd=clone, env=alternate, check=True, capture_output=True)
    assert tip_of(bare) == built.commit
    assert tip_of(bare, "refs/heads/work") == git(clone, "rev-parse", "HEAD")
    git(clone, "commit", "-q", "--allow-empty", "-m", "more work")
    stale = one.build(tip, {"a/x": b"stale"})
    assert isinstance(stale, TableBuilt)
    specs = ["HEAD:refs/heads/work", f"{stale.commit}:{stale.ref}"]
    assert subprocess.run([*push, *specs], cwd=clone, env=alternate, check=False, capture_output=True).returncode != 0
    assert tip_of(bare) == built.commit
    assert tip_of(bare, "refs/heads/work") == git(clone, "rev-parse", "HEAD^")
