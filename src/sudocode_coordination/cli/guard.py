"""`coord guard`: no commit and no push of what another agent has leased, unless a person says so."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from sudocode_coordination.api.requests import CheckConflicts, PreparePush, PushDone, SendMessage
from sudocode_coordination.askgit import git
from sudocode_coordination.cli.conflicts import conflict_lines
from sudocode_coordination.cli.pushing import FENCED
from sudocode_coordination.cli.screen import Block, error_document
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean
from sudocode_coordination.errors import CoordinationError, DaemonError, HeldError, UsageError
from sudocode_coordination.hooks import git as hooks
from sudocode_coordination.hooks.agents import processes_above
from sudocode_coordination.model import Conflict, Resource

MAX_FILES: Final = 1_000
"""Asked about at once, as a request can hold them."""
MAX_ALL_FILES: Final = 20_000
"""Of one commit or push: a vendored tree is nobody's lease, and is not looked at name by name."""
MAX_SHOWN: Final = 5
"""Files named to a holder whose lease was overridden."""
_NOTHING: Final = "0" * 40
_TIMEOUT_MS: Final = 5_000


def guard_install(session: Session, args: Namespace) -> int:
    """Put the checks into the repository's git hooks, in front of what is there."""
    del args
    done = [hooks.install(place) for place in hooks.places(session.clone.root)]
    session.screen.show({"hooks": [str(place.path) for place in hooks.places(session.clone.root)]}, [clean(line) for line in done])
    return 0


def guard_remove(session: Session, args: Namespace) -> int:
    """Take the checks out of the repository's git hooks."""
    del args
    done = [line for place in hooks.places(session.clone.root) if (line := hooks.remove(place))]
    session.screen.show({"removed": done}, [clean(line) for line in done] or ["there are no guards"])
    return 0


def guard_check(session: Session, args: Namespace) -> int:
    """Whether what is to be committed, pushed or merged is leased by somebody else; exit code 3 if it is.

    Without a daemon nothing is known, and nothing is held up: that is said on standard error.
    """
    files = _files(session, args)
    if not files:
        return _free(session, 0)
    try:
        agent, found = _conflicts(session, files)
        # Not for each commit: what another has now, it has already found, and a look at the table goes to the remote.
        lost = None if args.hook == "pre-commit" else _lost_token(session, agent)
    except DaemonError as error:
        if args.hook is None:
            raise
        if not Path(session.clone.state_dir).is_dir() and all(
            hooks.is_everybodys(place, session.clone) for place in hooks.places(session.clone.root)
        ):
            return 0  # another repository's work brought the hook here
        sys.stderr.write(f"coord guard: not checked: {error.message}\n")
        return 0
    if not found and lost is None:
        return _free(session, len(files))
    reason = os.environ.get("COORD_OVERRIDE", "").strip()
    if reason and lost is None:
        return _overridden(session, agent, found, reason)
    return _refused(session, found, lost)


def _free(session: Session, count: int) -> int:
    session.screen.show({"conflicts": []}, [] if not session.screen.as_json else [f"free: {count}"])
    return 0


def _refused(session: Session, found: Sequence[Conflict], lost: CoordinationError | None) -> int:
    lines = conflict_lines(msgspec.to_builtins(found))
    if lost is not None:
        lines = [clean(lost.message), *lines]
    hint = (
        clean(lost.hint)
        if lost is not None
        else "wait for it (coord lease PATH --wait), ask for it (coord ask PATH), or, as a person who has agreed it: "
        'COORD_OVERRIDE="why" git …'
    )
    error = HeldError("; ".join(lines), hint=hint)
    if session.screen.as_json:
        session.screen.document({"conflicts": msgspec.to_builtins(found), "error": error_document(error)})
    else:
        session.screen.error(error)
    return HeldError.exit_code


def _overridden(session: Session, agent: str, found: Sequence[Conflict], reason: str) -> int:
    """A person decided it: recorded as a message that every holder sees, and everybody can read for as long as it lasts."""
    holders = tuple(sorted({conflict.agent_id for conflict in found}))
    names = ", ".join(dict.fromkeys(str(conflict.resource) for conflict in found[:MAX_SHOWN]))
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    text = f"your lease on {names}{more} was overridden in a commit or push: {reason}"[:1_000]
    try:
        session.ask(SendMessage(text=text, to=holders[:50], resource=found[0].resource, ttl_ms=86_400_000, agent=agent))
    except CoordinationError as error:
        sys.stderr.write(f"coord guard: {clean(', '.join(holders))} could not be told: {clean(error.message)}\n")
    lines: list[Block] = [f"overridden, and {clean(', '.join(holders))} told: {clean(reason)}"]
    session.screen.show({"overridden": msgspec.to_builtins(found), "reason": reason}, lines)
    return 0


def _conflicts(session: Session, files: Sequence[str]) -> tuple[str, list[Conflict]]:
    """Who acts, and what it would run into."""
    agent = session.agent or ""
    found: dict[tuple[str, Resource], Conflict] = {}
    above = () if session.agent else tuple(processes_above())
    for start in range(0, len(files), MAX_FILES):
        resources = tuple(Resource("file", file) for file in files[start : start + MAX_FILES])
        answer = session.ask(CheckConflicts(resources=resources, agent=session.agent, processes=above), timeout_ms=_TIMEOUT_MS)
        agent = answer.agent_id
        found.update({(c.agent_id, c.resource): c for c in answer.conflicts if c.kind == "lease"})
    return agent, list(found.values())


def _lost_token(session: Session, agent: str) -> CoordinationError | None:
    """Why the agent's strict leases, if it has any on these, are its own no more, as the table on the remote says."""
    if os.environ.get(FENCED):
        return None  # `coord push` has the table as its condition already
    try:
        prepared = session.ask(PreparePush(agent=agent), timeout_ms=60_000)
    except HeldError as error:
        return error
    except CoordinationError as error:
        if isinstance(error, DaemonError):
            raise
        sys.stderr.write(f"coord guard: fencing tokens were not checked: {clean(error.message)}\n")
        return None
    if prepared.commit:
        session.ask(PushDone(commit=prepared.commit, landed=False))
    return None


# --- which files ----------------------------------------------------------------------------------------------------------


def _files(session: Session, args: Namespace) -> list[str]:
    root = session.clone.work_tree or session.clone.common_dir
    if args.hook == "pre-commit":
        if args.paths:
            raise UsageError("--hook pre-commit looks at what is staged", hint="leave the paths out")
        return _staged(root, _index_of_commit())
    if args.hook == "pre-push":
        remote = args.paths[0] if args.paths else "origin"
        return _pushed(root, remote, sys.stdin.read().splitlines())
    if args.base is not None:
        if args.base.startswith("-"):
            raise UsageError(f"{args.base!r} is no revision", hint="for example --base origin/main")
        return _listed(root, "diff", "--name-only", "--no-renames", "-z", f"{args.base}...HEAD", "--")
    if not args.paths:
        raise UsageError("nothing to check", hint="give PATHs, or --base REV: what has changed since it")
    return [session.path(path) for path in args.paths]


def _staged(root: str, index: str | None) -> list[str]:
    """What the commit changes; of a merge, what is as in neither side: the rest is the others' own work, that comes with it."""
    diff = ("diff", "--cached", "--name-only", "--no-renames", "-z")
    found = _listed(root, *diff, index=index)
    merged = git(root, "rev-parse", "--verify", "--quiet", "MERGE_HEAD")
    if not merged.ok:
        return found
    theirs = set(_listed(root, *diff, merged.text, "--", index=index))
    return [file for file in found if file in theirs]


def _pushed(root: str, remote: str, lines: Iterable[str]) -> list[str]:
    """Files that the commits touch which the remote does not have yet, by what git tells a pre-push hook."""
    found: dict[str, None] = {}
    # Pushed to a URL, git names that: what any remote has is no news then.
    had = f"--remotes={remote}" if remote in git(root, "remote").text.split("\n") else "--remotes"
    for line in lines:
        fields = line.split()
        if len(fields) != 4 or set(fields[1]) == {"0"}:
            continue  # a branch that is deleted
        _, local, _, there = fields
        known = set(there) != {"0"} and git(root, "cat-file", "-e", f"{there}^{{commit}}").ok
        new = [local, "--not", had, *([there] if known else []), "--"]
        # Of merges what is as in neither side: the rest is of commits of its own.
        files = _listed(root, "log", "--name-only", "--no-renames", "-c", "--format=", "-z", *new)
        if known:  # what was changed and changed back is no change
            net = set(_listed(root, "diff", "--name-only", "--no-renames", "-z", f"{there}...{local}", "--"))
            files = [file for file in files if file in net]
        found.update(dict.fromkeys(files))
    return list(found)[:MAX_ALL_FILES]


def _index_of_commit() -> str | None:
    """`git commit -a` and `git commit PATH` make an index of their own, and name it to the hook: relative to where that runs."""
    index = os.environ.get("GIT_INDEX_FILE")
    return str(Path(index).absolute()) if index else None


def _listed(root: str, *arguments: str, index: str | None = None) -> list[str]:
    answer = git(root, *arguments, index=index)
    if not answer.ok:
        raise CoordinationError(f"git {arguments[0]}: {clean(answer.error)}", hint="is the revision there? git fetch")
    names = (name for name in answer.out.decode("utf-8", "surrogateescape").split("\0"))
    # A name that is no text can't be leased.
    return [name.lstrip("\n") for name in names if name.strip("\n") and name.isprintable()][:MAX_ALL_FILES]


def guard_status(folder: str | Path) -> list[str]:
    """Which hooks have the check, in words, for `coord doctor`."""
    return [
        f"{place.hook}: {'checks leases' if place.state in ('ours', 'guarded') else 'no check'}" for place in hooks.places(folder)
    ]
