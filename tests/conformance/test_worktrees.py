"""What is changed in worktrees: looked at, shared, merged without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from tests.conformance.worktree_bench import Repository, git, through_the_wire

from sudocode_coordination.adapters import worktree_scan, worktree_status, worktrees
from sudocode_coordination.adapters.foresight import MissingError, parse_merged
from sudocode_coordination.adapters.gitrun import GitFailedError
from sudocode_coordination.adapters.patches import parse_patches, read_marked
from sudocode_coordination.adapters.worktree_status import Changed, parse_status
from sudocode_coordination.adapters.worktrees import GitWorkTrees, Unwatched
from sudocode_coordination.core.diff_entries import DiffEntry, DiffError, Hunk, Work, WorkHeader
from sudocode_coordination.core.merges import ForetellMerge, MergeForetold, WorkSeen, WorkUnseen
from sudocode_coordination.core.secrecy import Denial
from sudocode_coordination.model import LineRange

TEXT = "".join(f"line {number}\n" for number in range(1, 21))


def with_lines(**lines: str) -> str:
    """The text with some of its lines replaced: `l5="five"`."""
    changed = {int(name[1:]): value for name, value in lines.items()}
    return "".join(f"{changed.get(number, f'line {number}')}\n" for number in range(1, 21))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(tmp_path)
    (found.ann / "a.py").write_text(TEXT)
    (found.ann / "b.py").write_text(TEXT)
    (found.ann / ".gitignore").write_text("build/\n*.log\n")
    found.commit()
    found.push()
    return found


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below, but for those that reading alone may change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_not_on_the_remote_is_seen_committed_or_not(repository: Repository) -> None:
    side = repository.side()
    assert side.look().work is None
    (repository.ann / "a.py").write_text(with_lines(l5="five"))
    repository.commit()
    (repository.ann / "new.py").write_text("x = 1\n")
    (repository.ann / "b.py").unlink()
    before = everything(repository.ann)
    work = side.look().work
    assert everything(repository.ann) == before, "nothing is written: no index, no object, no lock"
    assert work is not None
    assert work.header.branch == "main"
    assert work.files["a.py"].hunks == (Hunk(4, 1, "five\n"),)
    assert (work.files["new.py"].change, work.files["new.py"].hunks) == ("added", (Hunk(0, 0, "x = 1\n"),))
    assert work.files["b.py"] == DiffEntry(change="deleted")
    repository.push()
    again = side.look().work
    assert again is not None
    assert sorted(again.files) == ["b.py", "new.py"]


def test_what_is_ignored_denied_binary_large_or_secret_is_not_shared(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worktree_scan, "MAX_FILE_BYTES", 50_000)
    files = {
        "build/out.txt": b"x",
        "run.log": b"x",
        ".env": b"TOKEN=x",
        "vault/plan": b"x",
        "pic.bin": b"\0\1",
        "many.txt": b"word word\n" * 4_000,
        "huge.txt": b"x" * 60_000,
        "config.py": b"password = 'correct-horse-battery'\n",
        "latin.txt": b"gr\xfc\xdfe\n",
    }
    for name, content in files.items():
        (repository.ann / name).parent.mkdir(exist_ok=True)
        (repository.ann / name).write_bytes(content)
    work = repository.side(denial=Denial(["vault/*"])).look().work
    assert work is not None
    assert {path: entry.withheld for path, entry in work.files.items()} == {
        "config.py": "secret",
        "huge.txt": "large",
        "latin.txt": None,
        "many.txt": "large",
        "pic.bin": "binary",
    }
    assert work.header.left_out == 2, "of these not even the names"
    assert work.files["config.py"] == DiffEntry(change="added", mode="100644", withheld="secret")
    assert work.files["latin.txt"].encoding == "latin-1"
    assert all(entry.withheld is None or not entry.hunks for entry in work.files.values())


def test_there_is_a_limit_on_all_of_it_together(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worktree_scan, "MAX_FILES", 5)
    monkeypatch.setattr(worktree_scan, "MAX_WORK_BYTES", 3_000)
    for number in range(8):
        (repository.ann / f"f{number}").write_text("x" * 1_000 + "\n")
    work = repository.side().look().work
    assert work is not None
    assert [entry.withheld for entry in work.files.values()] == [None, None, "limit", "limit", "limit"]
    assert work.header.left_out == 3


@pytest.mark.slow
def test_there_is_a_limit_on_what_is_compared_at_once(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worktree_scan, "MAX_COMPARED_BYTES", 400)
    (repository.ann / "a.py").write_text(with_lines(l5="five"))
    (repository.ann / "b.py").write_text(with_lines(l5="five"))
    (repository.ann / "c.py").write_text(TEXT)
    work = repository.side().look().work
    assert work is not None
    assert [entry.withheld for entry in work.files.values()] == [None, "limit", "limit"]


def test_filters_modes_and_links_are_those_of_git(repository: Repository) -> None:
    (repository.ann / ".gitattributes").write_text("*.crlf text eol=crlf\n")
    repository.commit()
    repository.push()
    (repository.ann / "x.crlf").write_bytes(b"one\r\ntwo\r\n")
    (repository.ann / "link").symlink_to("a.py")
    (repository.ann / "a.py").chmod(0o755)
    (repository.ann / '"quoted name').write_text("q\n")
    seen = repository.side().look()
    assert seen.work is not None
    files = seen.work.files
    assert files["x.crlf"].hunks == (Hunk(0, 0, "one\ntwo\n"),), "as it would be committed"
    assert (files["link"].mode, files["link"].hunks) == ("120000", (Hunk(0, 0, "a.py"),))
    assert (files["a.py"].mode, files["a.py"].hunks) == ("100755", ())
    assert '"quoted name' in files


@pytest.mark.slow
def test_a_renamed_file_is_told_by_what_it_was(repository: Repository) -> None:
    (repository.ann / "big.txt").write_text("".join(f"{number} is a number\n" for number in range(5_000)))
    repository.commit()
    repository.push()
    (repository.ann / "lib").mkdir()
    (repository.ann / "big.txt").rename(repository.ann / "lib" / "big.txt")
    with (repository.ann / "lib" / "big.txt").open("a") as file:
        file.write("one more\n")
    work = repository.side().look().work
    assert work is not None
    assert work.files["lib/big.txt"].hunks == (Hunk(5_000, 0, "one more\n"),)


@pytest.mark.slow
def test_a_file_taken_out_of_the_index_counts_as_it_is(repository: Repository) -> None:
    git(repository.ann, "rm", "-q", "--cached", "a.py")
    assert repository.side().look().work is None
    (repository.ann / "a.py").write_text(with_lines(l1="one"))
    work = repository.side().look().work
    assert work is not None
    assert work.files["a.py"].change == "modified"


@pytest.mark.slow
def test_a_submodule_is_named_and_no_more(repository: Repository) -> None:
    git(repository.folder, "init", "-q", "other")
    git(repository.folder / "other", "commit", "-qm", "x", "--allow-empty")
    git(repository.ann, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository.folder / "other"), "sub")
    work = repository.side().look().work
    assert work is not None
    assert work.files["sub"].withheld == "submodule"


def test_both_sides_foretell_the_same_conflict_with_their_own_lines(repository: Repository) -> None:
    ann, ben = repository.side(), repository.clone()
    (ann.root / "a.py").write_text("new first line\n" + with_lines(l5="five", l15="fifteen"))
    (ben.root / "a.py").write_text(with_lines(l5="FIVE", l6="SIX", l18="eighteen"))
    mine, theirs = ann.look().work, ben.look().work
    assert mine is not None
    assert theirs is not None
    found = ann.foretell(through_the_wire(theirs))
    assert [(one.kind, one.lines, one.their_lines) for one in found.values()] == [
        ("contents", (LineRange(6, 6 + 1),), (LineRange(5, 6),)),
    ]
    found = ben.foretell(through_the_wire(mine))
    assert [(one.lines, one.their_lines) for one in found.values()] == [((LineRange(5, 6),), (LineRange(6, 7),))]
    (ann.root / "a.py").write_text(with_lines(l15="fifteen"))
    again = ann.look().work
    assert again is not None
    assert ben.foretell(through_the_wire(again)) == {}


@pytest.mark.slow
def test_what_is_not_shared_may_conflict(repository: Repository) -> None:
    ann, ben = repository.side(), repository.clone()
    (ann.root / "a.py").write_text(with_lines(l5="five"))
    (ben.root / "a.py").write_text(with_lines(l15="password = 'correct-horse-battery'"))
    theirs = ben.look().work
    assert theirs is not None
    (found,) = ann.foretell(through_the_wire(theirs)).values()
    assert (found.path, found.certain) == ("a.py", False)


@pytest.mark.slow
def test_the_same_binary_file_on_both_sides_is_no_conflict(repository: Repository) -> None:
    ann, ben = repository.side(), repository.clone()
    (ann.root / "pic").write_bytes(b"\0same")
    (ben.root / "pic").write_bytes(b"\0same")
    theirs = ben.look().work
    assert theirs is not None
    assert ann.foretell(through_the_wire(theirs)) == {}
    (ann.root / "pic").write_bytes(b"\0other")
    (found,) = ann.foretell(through_the_wire(theirs)).values()
    assert (found.path, found.certain) == ("pic", True)


def test_attributes_say_how_files_merge(repository: Repository) -> None:
    ann, ben = repository.side(), repository.clone()
    for side, text in ((ann, "ann\n"), (ben, "ben\n")):
        (side.root / "a.py").write_text(TEXT + text)
    theirs = ben.look().work
    assert theirs is not None
    assert ann.foretell(through_the_wire(theirs))
    (ann.root / ".git" / "info" / "attributes").write_text("*.py merge=union\n")
    trio.run(ann.home.prepare)
    assert ann.foretell(through_the_wire(theirs)) == {}


def test_the_users_configuration_runs_nothing_of_theirs(repository: Repository, tmp_path: Path) -> None:
    ann, ben = repository.side(), repository.clone()
    mark = tmp_path / "ran"
    git(ann.root, "config", "merge.evil.driver", f"touch {mark}; exit 1")
    (ann.root / ".gitattributes").write_text("* merge=evil\n")
    for side in (ann, ben):
        (side.root / "a.py").write_text(with_lines(l5=side.root.name))
    theirs = ben.look().work
    assert theirs is not None
    assert "a.py" in ann.foretell(through_the_wire(theirs))
    assert not mark.exists()


@pytest.mark.slow
def test_what_is_on_the_remote_already_is_not_told_as_somebodys_conflict(repository: Repository) -> None:
    ann, ben = repository.side(), repository.clone()
    (ben.root / "b.py").write_text(with_lines(l3="three"))
    git(ann.root, "fetch", "-q")
    (ann.root / "a.py").write_text(with_lines(l5="pushed by somebody"))
    repository.commit()
    repository.push()
    (ann.root / "b.py").write_text(with_lines(l3="THREE"))
    theirs = ann.look().work
    assert theirs is not None
    (ben.root / "a.py").write_text(with_lines(l5="mine"))
    with pytest.raises(MissingError, match="is not in this clone"):
        ben.foretell(through_the_wire(theirs))
    trio.run(ben.home.fetch, [theirs.header.base])
    assert list(ben.foretell(through_the_wire(theirs))) == ["b.py"], "a.py runs into the remote, not into ann"
    assert git(ben.root, "for-each-ref").count(b"refs/") == 3, "the fetch left no trace"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a.py": DiffEntry(change="modified", mode="100644", blob="a" * 40, hunks=(Hunk(0, 0, "x"),))}, "not whole"),
        ({"a.py": DiffEntry(change="modified", mode="100644", blob="a" * 40, base="b" * 40)}, "blob bbbbbbbbbb is not"),
        ({"a.py": DiffEntry(change="modified", mode="100644", blob="a" * 40, hunks=(Hunk(9, 1, "x"),))}, "a hunk of lines"),
        (
            {
                "x": DiffEntry(change="added", mode="100644", withheld="secret"),
                "x/y": DiffEntry(change="added", mode="100644", withheld="secret"),
            },
            "lies in what is a file",
        ),
    ],
)
def test_what_does_not_fit_is_refused(repository: Repository, files: dict[str, DiffEntry], why: str) -> None:
    side = repository.side()
    (side.root / "a.py").write_text("x")
    base = git(side.root, "rev-parse", "HEAD").decode().strip()
    with pytest.raises(DiffError, match=why):
        side.foretell(Work(header=WorkHeader(base=base, agent="eve"), files=files))


@pytest.mark.slow
def test_a_tree_in_place_of_a_commit_is_no_base(repository: Repository) -> None:
    side = repository.side()
    (side.root / "a.py").write_text("x")
    tree = git(side.root, "rev-parse", "HEAD^{tree}").decode().strip()
    with pytest.raises(MissingError):
        side.foretell(Work(header=WorkHeader(base=tree, agent="eve"), files={"b": DiffEntry(change="deleted")}))


@pytest.mark.slow
def test_without_anything_on_the_remote_it_is_said(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    with pytest.raises(GitFailedError, match="no commit yet"):
        repository.side().look()
    repository.commit()
    with pytest.raises(GitFailedError, match=r"nothing of main is on origin, as far as .*git config remote\.origin\.fetch"):
        repository.side().look()


@pytest.mark.slow
def test_after_a_merge_there_are_several_bases(repository: Repository) -> None:
    git(repository.ann, "checkout", "-qb", "topic")
    (repository.ann / "a.py").write_text(with_lines(l1="topic"))
    repository.commit()
    git(repository.ann, "push", "-q", "origin", "topic")
    git(repository.ann, "checkout", "-q", "main")
    (repository.ann / "b.py").write_text(with_lines(l1="main"))
    repository.commit()
    repository.push()
    git(repository.ann, "merge", "-q", "--no-edit", "topic")
    work = repository.side().look().work
    assert work is not None
    assert len(work.header.parents) == 2
    assert len(work.files) == 1


# --- what git says ------------------------------------------------------------------------------------------------------------


def test_what_git_says_otherwise_is_refused() -> None:
    with pytest.raises(GitFailedError):
        parse_status(b"x something\0")
    with pytest.raises(GitFailedError):
        parse_status(b"1 .M N... 100644\0")
    with pytest.raises(GitFailedError):
        parse_merged(b"tree\0no stage\0\0")
    with pytest.raises(GitFailedError):
        parse_merged(b"tree\0\x009\0a\0")
    advised = b"tree\x00160000 a 2\tsub\0\x001\0sub\0CONFLICT (contents)\0words\0Please do it by hand.\n\n"
    assert parse_merged(advised).conflicts == {"sub": "contents"}
    for patch in (b"diff --git a/0 b/0\n@@ -1 +1 @@\nx\n", b"diff --git a/0 b/0\n@@ -1,2 +1 @@\n-x\n"):
        with pytest.raises(GitFailedError):
            parse_patches(patch)
    assert parse_status(b"# branch.oid (initial)\0u UU\xff\0? dir/\0? \xff\0? new\0").changed == (Changed("new", None),)


@pytest.mark.parametrize("text", [b"<<< a\n", b"<<< a\n===\n===\n>>> b\n", b"===\n>>> b\n<<< a\n", b">>> b\n"])
def test_markers_that_do_not_pair_up_are_content(text: bytes) -> None:
    assert read_marked(text, 3) is None or read_marked(text, 3) == (text, text, [], [])


# --- the port -----------------------------------------------------------------------------------------------------------------


def test_where_nothing_is_shared_every_question_is_answered_all_the_same() -> None:
    delivered: list[Any] = []
    header = WorkHeader(base="a" * 40, agent="ann")
    Unwatched(delivered.append).foretell(ForetellMerge(ticket=7, worktree=".", theirs=Work(header=header)))
    assert delivered == [MergeForetold(ticket=7, unknown="this clone takes no part (enable_file_diffs)")]


class Port:
    """The port at work in a clone, and what it delivers."""

    def __init__(self, root: Path, folder: Path, **options: Any) -> None:
        self.delivered: list[Any] = []
        self._came = trio.Event()
        given = {"remote": "origin", "agent": "ann", "interval_ms": 100, **options}
        self.port = GitWorkTrees(root / ".git", folder, self._deliver, **given)

    def _deliver(self, given: Any) -> None:
        self.delivered.append(given)
        self._came.set()

    async def until(self, wanted: Any) -> Any:
        """The first that is delivered from now on of which that is true."""
        done = 0
        with trio.fail_after(60):
            while True:
                for given in self.delivered[done:]:
                    done += 1
                    if wanted(given):
                        return given
                self._came = trio.Event()
                await self._came.wait()


def test_the_port_watches_all_worktrees_and_answers(repository: Repository, tmp_path: Path) -> None:
    ben = repository.linked("ben.wt")
    port = Port(repository.ann, tmp_path / "port.git")

    async def story() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(port.port.run)
            (repository.ann / "a.py").write_text(with_lines(l5="five"))
            (ben.root / "a.py").write_text(with_lines(l5="FIVE"))
            mine = await port.until(lambda given: isinstance(given, WorkSeen) and given.worktree == "." and given.work)
            theirs = await port.until(lambda given: isinstance(given, WorkSeen) and given.worktree == "ben.wt" and given.work)
            port.port.foretell(ForetellMerge(ticket=1, worktree=".", theirs=through_the_wire(theirs.work)))
            told = await port.until(lambda given: isinstance(given, MergeForetold) and given.ticket == 1)
            assert [one.path for one in told.conflicts] == ["a.py"]
            port.port.foretell(ForetellMerge(ticket=2, worktree="gone", theirs=mine.work))
            assert (await port.until(lambda given: getattr(given, "ticket", 0) == 2)).unknown == "the worktree is gone"
            missing = Work(header=WorkHeader(base="b" * 40, agent="eve"), files={"a.py": DiffEntry(change="deleted")})
            port.port.foretell(ForetellMerge(ticket=3, worktree=".", theirs=missing))
            assert "bbbbbbbbbb is not in this clone" in (await port.until(lambda given: getattr(given, "ticket", 0) == 3)).unknown
            git(repository.ann, "worktree", "remove", "--force", str(ben.root))
            await port.until(lambda given: given == WorkSeen(worktree="ben.wt", work=None))
            nursery.cancel_scope.cancel()

    trio.run(story)
    assert (tmp_path / "port.git").stat().st_mode & 0o077 == 0


def test_what_an_earlier_process_left_damaged_is_made_anew(repository: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "port.git"
    side = repository.side()
    (side.root / "a.py").write_text(with_lines(l5="five"))
    blob = git(side.root, "hash-object", "a.py").decode().strip()
    (folder / "objects" / blob[:2]).mkdir(parents=True)
    (folder / "objects" / blob[:2] / blob[2:]).touch()  # after a power cut
    (folder / "HEAD").touch()
    port = Port(repository.ann, folder)

    async def story() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(port.port.run)
            told = await port.until(lambda given: isinstance(given, WorkSeen | WorkUnseen))
            assert isinstance(told, WorkSeen), told
            nursery.cancel_scope.cancel()

    trio.run(story)


@pytest.mark.slow
def test_what_is_thrown_away_is_made_again(repository: Repository) -> None:
    ann, ben = repository.side(), repository.clone()
    for side in (ann, ben):
        (side.root / "a.py").write_text(with_lines(l5=side.root.name))
    theirs = ben.look().work
    assert theirs is not None
    assert list(ann.foretell(through_the_wire(theirs))) == ["a.py"]
    ann.home.wipe()
    assert list(ann.foretell(through_the_wire(theirs))) == ["a.py"]


def test_an_old_git_is_told(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worktrees, "NEEDED", (99, 1))
    port = Port(repository.ann, tmp_path / "port.git")

    async def story() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(port.port.run)
            told = await port.until(lambda given: isinstance(given, WorkUnseen))
            assert told.reason.startswith("git 99.1 or later is needed, this is 2.")
            nursery.cancel_scope.cancel()

    trio.run(story)


def test_a_fault_of_ours_ends_nothing_else(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_listing: bytes) -> None:
        raise ZeroDivisionError("planted")

    port = Port(repository.ann, tmp_path / "port.git")

    async def story() -> None:
        async with trio.open_nursery() as nursery:
            with monkeypatch.context() as planted:
                planted.setattr(worktree_status, "parse_status", fails)
                await nursery.start(port.port.run)
                told = await port.until(lambda given: isinstance(given, WorkUnseen))
                assert "planted" in told.reason
            assert await port.until(lambda given: given == WorkUnseen(reason=""))
            nursery.cancel_scope.cancel()

    trio.run(story)
    assert "worktrees can't be looked at" in caplog.text


def test_too_many_questions_are_answered_without_a_merge(repository: Repository, tmp_path: Path) -> None:
    port = Port(repository.ann, tmp_path / "port.git")
    header = WorkHeader(base="a" * 40, agent="ann")
    for ticket in range(worktrees.MAX_WAITING + 1):
        port.port.foretell(ForetellMerge(ticket=ticket, worktree=".", theirs=Work(header=header)))
    assert port.delivered == [MergeForetold(ticket=0, unknown="too many merges are asked for")]
