"""The forecast equals git's own merge, whatever was edited."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.conformance.worktree_bench import Repository, Side, blocks, git, merged_by_git, through_the_wire

from sudocode_coordination.core.diff_entries import lines_of, may_conflict

PATHS = ("a", "b.txt", "lib/x.py", "lib/y.py", "lib/deep/z", "new/x.py", "ü ñ", "lib")
LINES = st.sampled_from([b"alpha\n", b"beta\n", b"gamma\n", b"}\n", b"\n", b"win\r\n", b"\xff\xfe\n"])
LONG = st.builds(lambda lines, end: b"".join(lines) + end, st.lists(LINES, max_size=14), st.sampled_from([b"", b"", b"no newline"]))


@st.composite
def edited(draw: Any, tree: dict[str, bytes]) -> dict[str, bytes]:
    """The tree after some edits."""
    after = dict(tree)
    for _ in range(draw(st.integers(1, 4))):
        names = sorted(after)
        what = draw(st.sampled_from(["replace", "replace", "insert", "cut", "delete", "rename", "add", "binary"]))
        if what == "add" or not names:
            after[draw(st.sampled_from(PATHS))] = draw(LONG)
            continue
        name = draw(st.sampled_from(names))
        lines = lines_of(after[name])
        at = draw(st.integers(0, len(lines)))
        if what == "replace" and at < len(lines):
            lines[at : at + draw(st.integers(1, 3))] = draw(st.lists(LINES, min_size=1, max_size=3))
        elif what == "insert":
            if at and not lines[at - 1].endswith(b"\n"):
                at -= 1
            lines[at:at] = draw(st.lists(LINES, min_size=1, max_size=3))
        elif what == "cut":
            del lines[at : at + draw(st.integers(1, 4))]
        elif what == "delete":
            del after[name]
            continue
        elif what == "rename":
            after[draw(st.sampled_from(PATHS))] = after.pop(name)
            continue
        elif what == "binary":
            after[name] = b"\0" + draw(st.sampled_from([b"1", b"2"]))
            continue
        after[name] = b"".join(lines)
    return fits(after)


def fits(tree: dict[str, bytes]) -> dict[str, bytes]:
    """Without files that lie in what is a file."""
    return {path: content for path, content in tree.items() if not any(path.startswith(f"{other}/") for other in tree)}


BASES = st.dictionaries(st.sampled_from(PATHS), LONG, min_size=1, max_size=4).map(fits)


@st.composite
def histories(draw: Any) -> tuple[dict[str, bytes], list[dict[str, bytes]], list[dict[str, bytes]]]:
    """A base, and what each side has after each of its commits, the last one not committed."""
    base = draw(BASES)
    sides = []
    for _ in range(2):
        steps = [draw(edited(base))]
        if draw(st.booleans()):
            steps.append(draw(edited(steps[0])))
        sides.append(steps)
    return base, sides[0], sides[1]


def write(root: Path, tree: dict[str, bytes]) -> None:
    for path in root.iterdir():
        if path.name != ".git":
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


class Duel:
    """Two worktrees of one base."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(folder)
        self.repository.commit()
        self.mine: Side = self.repository.side()
        self.theirs: Side = self.repository.linked()

    def play(self, base: dict[str, bytes], mine: list[dict[str, bytes]], theirs: list[dict[str, bytes]]) -> None:
        write(self.mine.root, base)
        commit = self.repository.commit()
        git(self.mine.root, "update-ref", "refs/remotes/origin/main", commit)
        git(self.theirs.root, "checkout", "-qf", "--detach", commit)
        for side, steps in ((self.mine, mine), (self.theirs, theirs)):
            for number, tree in enumerate(steps):
                if number:  # what was before is committed, and not pushed
                    git(side.root, "add", "--all")
                    git(side.root, "commit", "-qm", "x", "--allow-empty")
                write(side.root, tree)

    def agree(self, *, by_merging: bool = False) -> None:
        mine, theirs = self.mine.look(), self.theirs.look()
        assert mine.work is None or not mine.work.header.left_out
        one, other = self.mine.all_committed(), self.theirs.all_committed()
        expected = {plain(path, one, other) for path in merged_by_git(self.mine.root, one, other)}
        if by_merging:
            assert {plain(path, "HEAD", other) for path in merged_in_a_worktree(self.repository, one, other)} == expected
        if mine.work is None or theirs.work is None:
            assert not expected
            return
        shared = through_the_wire(theirs.work)
        if not may_conflict(mine.work, shared):
            assert not expected
        found = self.mine.foretell(shared)
        assert found.keys() == expected
        for path, conflict in found.items():
            if conflict.lines and all((side.root / path).is_file() for side in (self.mine, self.theirs)):  # else it is renamed
                ours, others = (lines_of((side.root / path).read_bytes()) for side in (self.mine, self.theirs))
                told = [
                    (b"".join(ours[a.first - 1 : a.last]), b"".join(others[b.first - 1 : b.last]))
                    for a, b in zip(conflict.lines, conflict.their_lines, strict=True)
                ]
                assert [ended(pair) for pair in told] == blocks(self.mine.root, one, other, path)


def plain(path: str, *sides: str) -> str:
    """Without what git adds to the name of a file that meets a folder."""
    return path.rpartition("~")[0] if "~" in path and path.rpartition("~")[2].partition("_")[0] in sides else path


def ended(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Between markers, every line has an end."""
    one, two = (text if not text or text.endswith(b"\n") else text + b"\n" for text in pair)
    return one, two


def merged_in_a_worktree(repository: Repository, one: str, other: str) -> set[str]:
    scratch = repository.folder / "scratch"
    if not scratch.exists():
        git(repository.ann, "worktree", "add", "-q", "--detach", str(scratch))
    git(scratch, "checkout", "-qf", "--detach", one)
    git(scratch, "clean", "-qfdx")
    git(scratch, "merge", "-q", "--no-commit", "--no-ff", other, codes=(0, 1))
    unmerged = git(scratch, "ls-files", "-u", "-z").decode().split("\0")
    git(scratch, "reset", "-q", "--hard")
    return {line.split("\t", 1)[1] for line in unmerged if line}


@pytest.fixture(scope="module")
def duel(tmp_path_factory: pytest.TempPathFactory) -> Duel:
    return Duel(tmp_path_factory.mktemp("duel"))


PHASES = (Phase.explicit, Phase.generate)
"""To shrink a history takes minutes, and says little more."""
RELAXED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=6, deadline=None, phases=PHASES, suppress_health_check=RELAXED)
@given(history=histories())
def test_the_forecast_is_what_git_merge_tree_finds(duel: Duel, history: Any) -> None:
    duel.play(*history)
    duel.agree()


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@settings(max_examples=150, deadline=None, phases=PHASES, suppress_health_check=RELAXED)
@given(history=histories())
def test_the_forecast_is_what_git_merge_finds_in_many_histories(duel: Duel, history: Any) -> None:
    duel.play(*history)
    duel.agree(by_merging=True)
