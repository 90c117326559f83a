"""`coord doctor`: what keeps peers from meeting, and what to do about it. Works without a daemon; changes nothing but
git's remote-tracking ref of the coordination branch.
"""

from __future__ import annotations

import os
import re
import stat
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from sudocode_coordination import __version__
from sudocode_coordination.api.requests import DoctorFinding, GetFindings, GetStatus, ReadBranchNow, Status
from sudocode_coordination.askgit import git
from sudocode_coordination.cli.branch import BranchView, parse_time, read_branch
from sudocode_coordination.cli.published import show_published
from sudocode_coordination.cli.screen import Block, Styled
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.setup_findings import setup_findings
from sudocode_coordination.cli.text import clean, shown_duration
from sudocode_coordination.config import CONFIG_FILE, load_config
from sudocode_coordination.errors import ConfigError, CoordinationError, NoDaemonError
from sudocode_coordination.place import IDENTITY_FILE, Clone, copied_from, socket_path

OLDEST_GIT: Final = (2, 29)
"""`fetch --no-write-fetch-head`: without it the user's FETCH_HEAD would be overwritten."""
IDENTITY_BYTES: Final = 36
"""Of the identity file, as `adapters.identity` writes it, which is too costly to import; a test compares them."""
ASIDE_PREFIX: Final = "state.db.corrupt-"
"""Of files that `adapters.disk` keeps for whoever wants to look into it."""
LITTLE_SPACE_BYTES: Final = 100 * 1024 * 1024
"""Less, and git and SQLite soon fail to write."""
CLOCK_TOLERANCE: Final = timedelta(minutes=2)
"""A record from further in the future means that a clock is wrong; leases do not depend on it, people do."""
SHOWN_SKIPPED: Final = 10
"""Skipped records that are told one by one."""


def doctor(session: Session, args: Namespace) -> int:
    """Run all checks; exit code 1 if something is broken."""
    if args.published:
        return show_published(session)
    with session.screen.progress("looking at git, the branch and the daemon"):
        findings = list(examine(session, remote=args.remote, branch=args.branch))
    broken = [finding for finding in findings if not finding.ok]
    blocks: list[Block] = []
    for finding in findings:
        mark = "BROKEN " if not finding.ok else "note   " if finding.hint else "ok     "
        blocks.append(Styled(f"{mark}{clean(finding.name)}: {clean(finding.message, 500)}", "" if finding.ok else "bold red"))
        if finding.hint:
            blocks.append(f"       -> {clean(finding.hint, 500)}")
    blocks.append("all is well" if not broken else f"{len(broken)} of {len(findings)} checks found something broken")
    session.screen.show({"ok": not broken, "findings": msgspec.to_builtins(findings)}, blocks)
    return 1 if broken else 0


def _finding(name: str, message: str, hint: str = "", *, ok: bool = True) -> DoctorFinding:
    return DoctorFinding(name=name, ok=ok, message=message, hint=hint)


def examine(session: Session, *, remote: str | None = None, branch: str | None = None) -> Iterator[DoctorFinding]:
    """All findings, in the order in which things depend on each other."""
    has_git = _git_version()
    yield has_git
    try:
        clone = session.clone
    except CoordinationError as error:
        yield _finding("repository", error.message, error.hint, ok=False)
        return
    if has_git.ok:
        yield _repository(clone)
    try:
        config = load_config(Path(clone.root), {"git_remote": remote, "coordination_branch": branch})
    except ConfigError as error:
        yield _finding("configuration", error.message, error.hint, ok=False)
        config = None
    else:
        there = os.path.lexists(os.path.join(clone.root, CONFIG_FILE))  # noqa: PTH118
        yield _finding("configuration", f"{CONFIG_FILE} is sound" if there else f"defaults (no {CONFIG_FILE})")
    yield from _disk(clone)
    yield from _identity(clone)
    if has_git.ok and clone.work_tree is not None:
        yield from setup_findings(Path(clone.work_tree))
    status, daemon_findings = _daemon(session, clone)
    where: tuple[str, str] | None = None
    if has_git.ok and status is not None:
        # It may have been started with others than the file says.
        where = remote or status.remote.name, branch or status.remote.branch
    elif has_git.ok and config is not None:
        where = config.git_remote, config.coordination_branch
    view, findings = _branch(clone, *where) if where is not None else (None, [])
    # What is wrong with the remote is told once, by who has just asked it.
    broken = {finding.name for finding in findings if not finding.ok}
    yield from (finding for finding in daemon_findings if finding.ok or finding.name not in broken)
    if where is not None:
        # The daemon also checks signatures, and tells what it skips.
        yield from (finding for finding in findings if status is None or finding.name != "record-skipped")
        if view is not None:
            yield _clock(view, {agent.agent_id for agent in status.agents} if status else set())
    if status is not None:
        yield from _addresses(status)


def _git_version() -> DoctorFinding:
    answer = git("/", "--version")
    version = re.search(r"(\d+)\.(\d+)", answer.text)
    if not answer.ok or version is None:
        return _finding("git", answer.error or "git does not tell its version", "install git", ok=False)
    if (int(version[1]), int(version[2])) < OLDEST_GIT:
        oldest = ".".join(map(str, OLDEST_GIT))
        return _finding("git", f"{answer.text} is too old", f"install git {oldest} or later", ok=False)
    return _finding("git", answer.text)


def _repository(clone: Clone) -> DoctorFinding:
    def says(*arguments: str) -> str:
        return git(clone.root, "rev-parse", *arguments).text

    probe = git(clone.root, "rev-parse", "--git-dir")
    if not probe.ok:
        hint = (
            f"git config --global --add safe.directory {clone.root}" if "dubious ownership" in probe.error else "repair the clone"
        )
        return _finding("repository", f"git refuses {clone.root}: {probe.error}", hint, ok=False)
    kinds = []
    if says("--is-bare-repository") == "true":
        kinds.append("bare")
    if says("--is-shallow-repository") == "true":
        kinds.append("shallow")
    if says("--show-superproject-working-tree"):
        kinds.append("submodule")
    if clone.work_tree is not None and says("--absolute-git-dir") != says("--path-format=absolute", "--git-common-dir"):
        kinds.append("linked worktree")
    return _finding("repository", f"{clone.root} ({', '.join(kinds) or 'ordinary clone'})")


def _disk(clone: Clone) -> Iterator[DoctorFinding]:
    folder = clone.state_dir if os.path.isdir(clone.state_dir) else clone.common_dir  # noqa: PTH112
    if not os.access(folder, os.W_OK):
        yield _finding("disk", f"{folder} can't be written", "make it writable for this user", ok=False)
        return
    if folder == clone.state_dir and stat.S_IMODE(os.stat(folder).st_mode) & 0o077:  # noqa: PTH116
        yield _finding("permissions", f"{folder} is open to other users", f"chmod 700 {folder}", ok=False)
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < LITTLE_SPACE_BYTES:
        yield _finding("disk", f"{free // 1_000_000} MB free at {folder}", "make room", ok=False)
    elif space.f_files and space.f_favail == 0:
        yield _finding("disk", f"no inodes left at {folder}", "remove files", ok=False)
    else:
        yield _finding("disk", f"{free / 1_000_000_000:.1f} GB free")
    aside = sorted(name for name in os.listdir(folder) if name.startswith(ASIDE_PREFIX)) if folder == clone.state_dir else []  # noqa: PTH208
    if aside:
        hint = f"if nobody wants to look into it: rm {folder}/{ASIDE_PREFIX}*"
        yield _finding("damaged", f"a damaged database was set aside: {', '.join(aside)}", hint)


def _identity(clone: Clone) -> Iterator[DoctorFinding]:
    """Only what is wrong with it, as the next start would find it."""
    path = clone.state_file(IDENTITY_FILE)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size != IDENTITY_BYTES:
        hint = "restore it from a backup, or move it away: this clone then joins under a new peer id"
        yield _finding("identity", f"{path} is damaged", hint, ok=False)
    elif found.st_mode & 0o077:
        hint = f"if nobody has copied it: chmod 600 {path}; else delete it, and a new identity will be made"
        yield _finding("identity", f"others may read {path} (mode {stat.S_IMODE(found.st_mode):04o})", hint, ok=False)
    original = copied_from(clone)
    if original is not None:
        hint = "the next coord start gives it one of its own"
        yield _finding("identity", f"this clone is a copy of the one at {original}, and has its identity", hint)


def _daemon(session: Session, clone: Clone) -> tuple[Status | None, list[DoctorFinding]]:
    path = socket_path(clone)
    try:
        status = session.ask(GetStatus(), timeout_ms=10_000)
        # What it knows of the branch may be a minute old. If it can't read it, its findings say so.
        with suppress(CoordinationError):
            session.ask(ReadBranchNow(), timeout_ms=20_000)
        more = session.ask(GetFindings(), timeout_ms=10_000)
    except NoDaemonError:
        stale = " (a socket of a daemon that is gone is still there; the next start replaces it)" if os.path.lexists(path) else ""
        return None, [_finding("daemon", f"none runs in this clone{stale}", "coord start")]
    except CoordinationError as error:
        return None, [_finding("daemon", error.message, error.hint or "coord stop, then coord start", ok=False)]
    findings = []
    if status.version != __version__:
        findings.append(
            _finding(
                "daemon",
                f"it runs version {status.version}, this is {__version__}",
                "restart it: coord stop, then coord start",
                ok=False,
            )
        )
    else:
        findings.append(_finding("daemon", f"{status.state}, version {status.version}, peer {status.peer_id}"))
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116
        if mode & 0o077:
            findings.append(
                _finding("socket", f"{path} is open to other users ({mode:o})", "coord stop, then coord start", ok=False)
            )
        else:
            findings.append(_finding("socket", path))
    except OSError as error:
        findings.append(_finding("socket", f"{path}: {error.strerror}", "coord stop, then coord start", ok=False))
    return status, [*findings, *more]


def _branch(clone: Clone, remote: str, branch: str) -> tuple[BranchView | None, list[DoctorFinding]]:
    url = git(clone.root, "remote", "get-url", "--", remote)
    if not url.ok:
        known = ", ".join(git(clone.root, "remote").text.split()) or "none"
        hint = f"git remote add {remote} URL, or coord start --remote NAME (there are: {known})"
        return None, [_finding("remote", f"there is no git remote {remote!r}", hint, ok=False)]
    shown = _without_password(url.text)
    view = read_branch(clone.root, remote, branch)
    if view.trouble and view.commit is None:
        hint = f"`git ls-remote {remote}` must work without asking for a password (ssh-agent, credential helper)"
        return None, [_finding("remote", f"{shown} can't be reached: {view.trouble}", hint, ok=False)]
    findings = [_finding("remote", f"{shown} answers")]
    if view.trouble:
        findings.append(_finding("branch", f"{remote}/{branch}: {view.trouble}", f"git fetch {remote} {branch}", ok=False))
    elif view.commit is None:
        findings.append(_finding("branch", f"{remote} has no branch {branch} yet", "the first coord start creates it"))
    else:
        now = datetime.now(UTC)
        stale = [r for r in view.records if now - _seen(r.last_seen) > timedelta(milliseconds=r.ttl)]
        message = f"{remote}/{branch} has {len(view.records)} peer record{'' if len(view.records) == 1 else 's'}"
        findings.append(_finding("branch", message + (f", {len(stale)} of them past their ttl" if stale else "")))
        for name, why in view.skipped[:SHOWN_SKIPPED]:
            hint = f"somebody with push rights wrote it; remove it from {branch} if nobody needs it"
            findings.append(_finding("record-skipped", f"{name} is skipped: {why}", hint))
        if len(view.skipped) > SHOWN_SKIPPED:
            findings.append(_finding("record-skipped", f"{len(view.skipped) - SHOWN_SKIPPED} more files are skipped"))
    return view, findings


def _seen(last_seen: str) -> datetime:
    return parse_time(last_seen) or datetime.min.replace(tzinfo=UTC)


def _clock(view: BranchView, own: set[str]) -> DoctorFinding:
    now = datetime.now(UTC)
    others = [(_seen(record.last_seen), record.agent_id) for record in view.records if record.agent_id not in own]
    if not others:
        return _finding("clock", "nobody to compare with")
    latest, agent = max(others)
    if latest - now > CLOCK_TOLERANCE:
        ahead = shown_duration((latest - now).total_seconds() * 1000)
        hint = "set this machine's clock by network time, or theirs (leases are not harmed by it, times shown are wrong)"
        return _finding("clock", f"{agent} was last seen {ahead} in the future", hint, ok=False)
    return _finding("clock", f"no record is from the future (latest of another: {agent})")


def _addresses(status: Status) -> Iterator[DoctorFinding]:
    if not status.addresses:
        yield _finding(
            "addresses", "the daemon listens nowhere", "coord stop, then coord start --listen /ip4/0.0.0.0/tcp/0", ok=False
        )
        return
    outside = [a for a in status.addresses if not re.match(r"/ip4/127\.|/ip6/::1/", a)]
    if not outside:
        hint = "to be reached from other machines: coord start --listen /ip4/0.0.0.0/tcp/4001"
        yield _finding("addresses", f"on this machine only: {', '.join(status.addresses)}", hint)
    else:
        yield _finding("addresses", ", ".join(outside))
    outside_of_reach = [p for p in status.peers if p.connection in ("connecting", "disconnected")]
    if outside_of_reach and not any(p.connection in ("direct", "relayed") for p in status.peers):
        hint = (
            "if they run: let TCP through this machine's firewall for a fixed port (coord start --listen /ip4/0.0.0.0/tcp/4001); "
            "one side that can be reached is enough"
        )
        yield _finding("peers", f"none of {len(outside_of_reach)} known agents elsewhere is connected", hint)


def _without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", url)
