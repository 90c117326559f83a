"""`coord push` (cli/pushing.py): what goes to git, and what git's answer means. Whole pushes are in tests/e2e."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sudocode_coordination.api.requests import PreparedPush
from sudocode_coordination.cli.pushing import Wanted, _git_push, _quoted, _split, parse_push
from sudocode_coordination.cli.run import _of_git_push
from sudocode_coordination.cli.screen import Screen
from sudocode_coordination.errors import UsageError

TABLE = "refs/coordination/leases"


def run(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(short_tmp: Path) -> Path:
    subprocess.run(["git", "init", "-q", "--bare", short_tmp / "origin.git"], check=True)
    subprocess.run(["git", "init", "-q", "-b", "main", short_tmp / "clone"], check=True)
    folder = short_tmp / "clone"
    run(folder, "remote", "add", "origin", "../origin.git")
    run(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


def parsed(folder: Path, *arguments: str) -> Wanted:
    return parse_push(arguments, str(folder), "origin")


def asked(folder: Path, *arguments: str) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    wanted = parsed(folder, *arguments)
    return wanted.options, wanted.remote, wanted.refspecs


def test_what_git_would_add_is_said_out_loud(clone: Path) -> None:
    assert asked(clone) == ((), "origin", ("refs/heads/main:refs/heads/main",))
    assert asked(clone, "origin", "main:other", "v1") == ((), "origin", ("main:other", "v1"))
    assert asked(clone, "-u", "--force-with-lease", "-o", "ci.skip", "origin") == (
        ("-u", "--force-with-lease", "-o", "ci.skip"),
        "origin",
        ("refs/heads/main:refs/heads/main",),
    )
    assert asked(clone, "-q", "--", "origin", "main") == (("-q",), "origin", ("main",))
    run(clone, "config", "push.default", "upstream")
    run(clone, "config", "branch.main.merge", "refs/heads/trunk")
    assert parsed(clone).refspecs == ("refs/heads/main:refs/heads/trunk",)


def test_the_remote_may_be_named_by_an_option(clone: Path) -> None:
    for option in (["--repo=elsewhere"], ["--repo", "elsewhere"], ["--rep=elsewhere"]):
        with pytest.raises(UsageError, match="the lease table is on origin, not on elsewhere"):
            parsed(clone, *option)
        assert asked(clone, *option, "origin", "main") == ((), "origin", ("main",)), "as in git, what is no option goes before"
    assert asked(clone, "--repo", "origin") == ((), "origin", ("refs/heads/main:refs/heads/main",))
    options = ("--recurse-submodules", "check")
    assert asked(clone, *options, "origin", "main") == (options, "origin", ("main",)), "and a value is not taken for a remote"


def test_force_is_for_what_is_pushed_and_not_for_the_table(clone: Path) -> None:
    """git's own `--force` overrules `--force-with-lease`, and the table with it."""
    assert asked(clone, "--force") == ((), "origin", ("+refs/heads/main:refs/heads/main",))
    assert asked(clone, "-f", "origin", "main", "+x:y") == ((), "origin", ("+main", "+x:y"))
    assert asked(clone, "-ufq", "origin", "main") == (("-uq",), "origin", ("+main",))
    assert asked(clone, "-nof", "origin", "main") == (("-nof",), "origin", ("main",)), "f is a push option here"
    assert parsed(clone, "--force-with-lease", "origin", "main").refspecs == ("main",)


def test_a_forced_push_does_not_overrule_the_table(clone: Path, short_tmp: Path) -> None:
    objects = short_tmp / "objects"
    objects.mkdir()
    first = table_commit(clone, objects, None, "first")
    at_first = PreparedPush(ref=TABLE, commit=first, parent="", objects=str(objects))
    assert _git_push(parsed(clone), at_first, Screen(as_json=True), str(clone)).returncode == 0
    stale = PreparedPush(ref=TABLE, commit=table_commit(clone, objects, None, "stale"), parent="", objects=str(objects))
    run(clone, "commit", "-q", "--amend", "--allow-empty", "-m", "another first")
    refused = _git_push(parsed(clone, "--force"), stale, Screen(as_json=True), str(clone))
    assert refused.returncode != 0
    assert run(clone, "ls-remote", "origin", TABLE).split()[0] == first


def test_what_can_not_be_fenced(clone: Path) -> None:
    for option in ("--all", "--mirror", "--mir", "--delete", "-d", "-fd", "--no-atomic", "--no-atom"):
        with pytest.raises(UsageError, match="can't be fenced"):
            parsed(clone, option, "origin")
    run(clone, "remote", "add", "fork", "../fork.git")
    run(clone, "remote", "add", "alias", "../origin.git")
    with pytest.raises(UsageError, match="the lease table is on origin, not on fork"):
        parsed(clone, "fork", "main")
    assert parsed(clone, "alias", "main").remote == "origin", "another name of the same repository"
    run(clone, "config", "remote.pushDefault", "fork")
    with pytest.raises(UsageError, match="not on fork"):
        parsed(clone)
    run(clone, "config", "--unset", "remote.pushDefault")
    run(clone, "checkout", "-q", "--detach")
    with pytest.raises(UsageError, match="HEAD is detached"):
        parsed(clone)


def test_a_dry_run_is_one(clone: Path) -> None:
    for options in (["--dry-run"], ["-n"], ["-un"], ["--dry"]):
        assert parsed(clone, *options, "origin", "main").dry_run, options
    for options in (["-o", "n"], ["-on"], ["--delay"], ["-u"]):
        assert not parsed(clone, *options, "origin", "main").dry_run, options


def test_which_words_are_ours() -> None:
    assert _of_git_push(["push", "-u", "origin", "--json", "--agent", "bob", "HEAD"]) == (
        ["push", "--json", "--agent", "bob"],
        ["-u", "origin", "HEAD"],
    )
    assert _of_git_push(["--agent", "push", "push", "--agent=x"]) == (["--agent", "push", "push", "--agent=x"], [])
    assert _of_git_push(["push", "--", "--json"]) == (["push"], ["--", "--json"])
    assert _of_git_push(["lease", "push"]) == (["lease", "push"], None)
    assert _of_git_push(["--version"]) == (["--version"], None)


def table_commit(folder: Path, objects: Path, parent: str | None, what: str) -> str:
    """A commit on the table, its objects in a folder of their own."""
    environment = {
        "GIT_OBJECT_DIRECTORY": str(objects),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(folder / ".git" / "objects"),
        "HOME": "/",
        **{f"GIT_{who}_{part}": "x@example.invalid" for who in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")},
    }
    tree = subprocess.run(
        ["git", "-C", folder, "mktree"], env=environment, input="", check=True, capture_output=True, text=True
    ).stdout.strip()
    parents = ["-p", parent] if parent else []
    return subprocess.run(
        ["git", "-C", folder, "commit-tree", tree, *parents, "-m", what],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_branch_and_table_go_together_or_not_at_all(clone: Path, short_tmp: Path) -> None:
    objects = short_tmp / "öbjects: with a colon"
    objects.mkdir()
    first = table_commit(clone, objects, None, "first")
    prepared = PreparedPush(ref=TABLE, commit=first, parent="", objects=str(objects))
    done = _git_push(parsed(clone), prepared, Screen(as_json=True), str(clone))
    assert done.returncode == 0
    table, others = _split(done.stdout, TABLE)
    assert table.startswith("*")
    assert [line.split("\t")[1] for line in others] == ["refs/heads/main:refs/heads/main"]
    assert run(short_tmp / "origin.git", "rev-parse", TABLE) == first
    assert TABLE not in run(clone, "for-each-ref"), "no ref of the table in the user's repository"

    run(clone, "commit", "-q", "--allow-empty", "-m", "second")
    stale = PreparedPush(ref=TABLE, commit=table_commit(clone, objects, None, "late"), parent="", objects=str(objects))
    before = run(short_tmp / "origin.git", "rev-parse", "main")
    refused = _git_push(parsed(clone), stale, Screen(as_json=True), str(clone))
    assert refused.returncode != 0
    table, others = _split(refused.stdout, TABLE)
    assert "stale info" in table
    assert all("atomic push failed" in line for line in others)
    assert run(short_tmp / "origin.git", "rev-parse", "main") == before, "the work was not published"

    following = PreparedPush(ref=TABLE, commit=table_commit(clone, objects, first, "next"), parent=first, objects=str(objects))
    assert _git_push(parsed(clone), following, Screen(as_json=True), str(clone)).returncode == 0
    assert run(short_tmp / "origin.git", "rev-parse", "main") == run(clone, "rev-parse", "HEAD")


def test_folders_as_git_reads_a_list_of_them() -> None:
    assert _quoted("/a b/c") == "/a b/c"
    assert _quoted('/a:b"c') == '"/a:b\\"c"'
