"""What a checkout knows about commits: which one a release leaves behind, and whether it has one already."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from sudocode_coordination.api.requests import ReleaseLease
from sudocode_coordination.askgit import git
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Lease, Resource

LOOK_TIMEOUT_S: Final = 3.0
"""The history of one path in a large repository can take long; a release does not wait for it."""
MAX_PATHSPECS: Final = 500
"""On one command line; of a lease on more, the head of the branch is what is left behind."""
_WILD: Final = frozenset("*?[\\")


class LeftBehind(NamedTuple):
    """A commit for the next holder, and the branch that it is on (empty: a detached HEAD)."""

    commit: str
    branch: str


def leaving_commit(request: ReleaseLease, folder: str | os.PathLike[str], held: Iterable[Lease]) -> ReleaseLease:
    """The request with the commit that it leaves to the next holder (`left_behind`); as it is if there is none.

    It raises nothing: if git is missing, fails or takes too long, no commit is left, and the lease is given back all the same. Git
    is asked several times, for up to some seconds each (`LOOK_TIMEOUT_S`): in an event loop, call it in a thread.

    Args:
        request: what is given back; with `everything`, the commit is the latest that touched anything that is held.
        folder: the checkout.
        held: the leases of the agent that gives back.
    """
    held = tuple(held)
    about = [resource for lease in held for resource in lease.resources] if request.everything else request.resources
    left = left_behind(folder, about, held)
    return request if left is None else msgspec.structs.replace(request, commit=left.commit, branch=left.branch)


def left_behind(folder: str | os.PathLike[str], resources: Iterable[Resource], held: Iterable[Lease] = ()) -> LeftBehind | None:
    """The latest commit of the checked-out branch that touched any of the files and specs; None if there is none, or git does not
    say in time.

    `held`: the agent's leases. If one on these resources was handed a commit that this checkout lacks, and nothing was committed
    here since, None: what was here before would hide from the next holder what this one was told to build on. If it has it, and
    nothing after it touched them, that one is left behind again: its holder may have named a commit that touched none of these.
    """
    resources = tuple(resources)
    found = _last_that_touched(folder, resources)
    if found is None:
        return None
    named = {(resource.type, resource.path.rstrip("/")) for resource in resources}
    for lease in held:
        if lease.handover is None or not any((r.type, r.path.rstrip("/")) in named for r in lease.resources):
            continue
        there = contains(folder, lease.handover.commit)
        if there is False and _committed_before(folder, found.commit, lease.since):
            return None
        if there and found.commit != lease.handover.commit and contains(folder, found.commit, lease.handover.commit):
            return LeftBehind(lease.handover.commit, lease.handover.branch)
    return found


def _committed_before(folder: str | os.PathLike[str], commit: str, when: str) -> bool:
    """Both times are this machine's; git knows seconds only, so what is of the same second counts as after it."""
    answer = git(os.fspath(folder), "show", "-s", "--format=%ct", commit, timeout_s=LOOK_TIMEOUT_S)
    return answer.ok and answer.text.isdecimal() and int(answer.text) + 1 <= datetime.fromisoformat(when).timestamp()


def _last_that_touched(folder: str | os.PathLike[str], resources: Iterable[Resource]) -> LeftBehind | None:
    paths = [resource.path for resource in resources if resource.type in ("file", "spec")]
    if not paths:
        return None
    pathspecs = [_pathspec(path) for path in paths] if len(paths) <= MAX_PATHSPECS else []
    answer = git(os.fspath(folder), "log", "-1", "--format=%H", "HEAD", "--", *pathspecs, timeout_s=LOOK_TIMEOUT_S)
    return LeftBehind(answer.text, _branch(folder)) if answer.ok and answer.text else None


def named_commit(folder: str | os.PathLike[str], revision: str) -> LeftBehind:
    """The commit that a revision names.

    Raises:
        UsageError: it names none in this checkout.
    """
    answer = git(os.fspath(folder), "rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
    if not answer.ok:
        raise UsageError(f"{revision!r} names no commit here", hint="give a branch, a tag or a commit id that `git log` shows")
    is_branch = git(os.fspath(folder), "show-ref", "--verify", "--quiet", f"refs/heads/{revision}").ok
    return LeftBehind(answer.text, revision if is_branch else _branch(folder))


def contains(folder: str | os.PathLike[str], commit: str, head: str = "HEAD") -> bool | None:
    """Whether what is checked out, or another commit, has the commit in its history; None if git does not say."""
    answer = git(os.fspath(folder), "merge-base", "--is-ancestor", "--end-of-options", commit, head, timeout_s=LOOK_TIMEOUT_S)
    if answer.code in (0, 1):
        return answer.code == 0
    # Not even fetched: then it is surely not contained.
    known = git(os.fspath(folder), "cat-file", "-e", "--end-of-options", commit + "^{commit}", timeout_s=LOOK_TIMEOUT_S)
    if known.code is None or known.ok:
        return None
    # A shallow clone does not have the history, in which it may be.
    return None if git(os.fspath(folder), "rev-parse", "--is-shallow-repository").text == "true" else False


def _branch(folder: str | os.PathLike[str]) -> str:
    answer = git(os.fspath(folder), "symbolic-ref", "--quiet", "--short", "HEAD")
    return answer.text if answer.ok else ""


def _pathspec(path: str) -> str:
    plain = path.removesuffix("/")
    if path == "./":
        return ":(top)"
    return f":(top,{'glob' if _WILD & set(plain) else 'literal'}){plain}"
