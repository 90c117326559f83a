"""Live diffs as they are shared: what parses, what is put together again, which pairs may conflict."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.core import diff_entries
from sudocode_coordination.core.diff_entries import (
    DiffEntry,
    DiffError,
    Hunk,
    Key,
    Work,
    WorkHeader,
    apply_hunks,
    changed_lines,
    entry_bytes,
    is_path,
    lines_of,
    may_conflict,
    read_entry,
    read_header,
    read_key,
    worktree_name,
)
from sudocode_coordination.core.writer import encode_value
from sudocode_coordination.model import LineRange

ID = "a" * 40
HEADER = WorkHeader(base=ID, agent="ann")


def modified(*hunks: Hunk, **changes: Any) -> DiffEntry:
    return DiffEntry(**{"change": "modified", "mode": "100644", "blob": ID, "base": ID, "hunks": hunks, **changes})


def work(*modified_paths: str, added: tuple[str, ...] = (), deleted: tuple[str, ...] = (), base: str = ID, head: str = "") -> Work:
    files = {path: modified() for path in modified_paths}
    files |= {path: modified(change="added", base="") for path in added}
    files |= {path: DiffEntry(change="deleted") for path in deleted}
    return Work(header=WorkHeader(base=base, head=head, agent="ann"), files=files)


@given(st.binary(max_size=200))
def test_lines_are_those_of_git_and_lose_nothing(data: bytes) -> None:
    lines = lines_of(data)
    assert b"".join(lines) == data
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines[:-1])


def test_hunks_are_applied_to_their_base() -> None:
    base = b"1\n2\n3\n4\n5"
    entry = modified(Hunk(0, 0, "0\n"), Hunk(1, 2, "two\n"), Hunk(4, 1, "five\nsix"))
    assert apply_hunks(base, entry) == b"0\n1\ntwo\n4\nfive\nsix"
    assert changed_lines(entry) == (LineRange(1, 1), LineRange(3, 3), LineRange(5, 6))
    assert changed_lines(modified(Hunk(1, 2, ""))) == (LineRange(2, 1),), "between two lines"
    assert [str(lines) for lines in (LineRange(3, 3), LineRange(5, 6), LineRange(2, 1))] == ["3", "5-6", "2"]


def test_hunks_that_are_of_another_base_are_refused() -> None:
    with pytest.raises(DiffError, match="3 to 4 where there are 1"):
        apply_hunks(b"1\n", modified(Hunk(3, 1, "")))
    with pytest.raises(DiffError, match="latin-1"):
        apply_hunks(b"", modified(Hunk(0, 0, "\u20ac"), encoding="latin-1"))


def test_every_byte_survives_as_latin_1() -> None:
    everything = bytes(range(256))
    assert apply_hunks(b"", modified(Hunk(0, 0, everything.decode("latin-1")), encoding="latin-1")) == everything


def test_what_is_written_can_be_read() -> None:
    entry = modified(Hunk(0, 1, "a\n"), withheld=None)
    assert read_entry(msgspec.to_builtins(entry)) == entry
    header = WorkHeader(base=ID, parents=(ID, "b" * 40), branch="feature/x", agent="ann", left_out=2)
    assert read_header(msgspec.to_builtins(header)) == header
    assert read_key(str(Key(".", "src/a.py"))) == Key(".", "src/a.py")
    assert read_key(str(Key("wt-1", ""))) == Key("wt-1", "")


def test_what_a_newer_version_adds_is_passed_over() -> None:
    value = {**msgspec.to_builtins(modified()), "colour": "blue"}
    assert read_entry(value) == modified()


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        {},
        {"change": "moved"},
        {"change": "modified", "mode": "100644", "blob": "../x", "base": ID},
        {"change": "modified", "mode": "40000", "blob": ID, "base": ID},
        {"change": "modified", "mode": "", "blob": ID},
        {"change": "deleted", "mode": "100644"},
        {"change": "deleted", "hunks": [[0, 0, "x"]]},
        {"change": "added", "mode": "100644", "blob": ID, "hunks": [[-1, 0, "x"]]},
        {"change": "added", "mode": "100644", "blob": ID, "hunks": [[0, -1, "x"]]},
        {"change": "added", "mode": "100644", "blob": ID, "hunks": [[5, 1, "x"], [5, 1, "y"]]},
        {"change": "added", "mode": "100644", "blob": ID, "hunks": [[5, 1, "x"], [6, 1, "y"]]},
        {"change": "added", "mode": "100644", "blob": ID, "hunks": [[n * 2, 0, ""] for n in range(1_001)]},
    ],
)
def test_what_is_no_entry_counts_as_not_there(value: Any) -> None:
    assert read_entry(value) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "HEAD"},
        {"head": "HEAD"},
        {"agent": "a/b"},
        {"parents": [ID] * 9},
        {"parents": ["b" * 40]},
        {"branch": "a b"},
        {"branch": "\x1b[1m"},
        {"branch": "x" * 201},
        {"leftOut": -1},
    ],
)
def test_what_is_no_header_counts_as_not_there(changes: dict[str, Any]) -> None:
    assert read_header(msgspec.to_builtins(HEADER)) == HEADER
    assert read_header({**msgspec.to_builtins(HEADER), **changes}) is None


@pytest.mark.parametrize(
    "key",
    [
        *(
            "",
            "|a",
            "..",
            ".|",
            ".|/a",
            ".|a//b",
            ".|a/",
            ".|./a",
            ".|../a",
            ".|a/.git/config",
            ".|.GIT/hooks/x",
            ".|a\nb",
            ".|\x1b",
        ),
        *("../x|a", "a b|c", ".|" + "x" * 1_000),
    ],
)
def test_what_git_would_not_take_is_no_key(key: str) -> None:
    assert read_key(key) is None


@given(st.text(max_size=100))
def test_every_worktree_has_a_name(name: str) -> None:
    key = read_key(worktree_name(name))
    assert key is not None
    assert key.worktree != diff_entries.MAIN


@given(st.text(max_size=60))
def test_paths_do_not_leave_the_repository(path: str) -> None:
    if is_path(path):
        assert not path.startswith("/")
        assert not {"..", ".", ""} & set(path.split("/"))


def test_what_can_not_be_shared_is_too_large() -> None:
    for entry in (modified(), modified(Hunk(0, 0, "ü" * 100)), modified(*(Hunk(n * 2, 1, "") for n in range(900)))):
        assert len(encode_value(msgspec.to_builtins(entry))[0]) <= entry_bytes(entry) < 22_100
    assert entry_bytes(modified(Hunk(0, 0, "\ud800"))) > diff_entries.MAX_ENTRY_BYTES


def test_which_pairs_may_conflict() -> None:
    assert may_conflict(work("a"), work("a", "b"))
    assert not may_conflict(work("a"), work("b"))
    assert not may_conflict(work("a"), work())
    assert may_conflict(work("a"), work("b", base="b" * 40)), "what is on the remote counts, too"
    assert not may_conflict(work("a", head="c" * 40), work("b"))
    assert may_conflict(work("a", head="c" * 40), work("b", head="d" * 40)), "both may be built on one commit that is not pushed"
    assert may_conflict(work("a"), work(added=("a/b",)))
    assert may_conflict(work(added=("old/new.py",)), work(added=("new/x.py",), deleted=("old/x.py",))), "a folder may be renamed"
