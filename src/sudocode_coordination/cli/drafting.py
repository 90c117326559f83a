"""`coord draft commit`: drafts and live updates become files of the repository, as a commit on a branch that the user names.

Only git's plumbing is used, with an index of our own: the checkout, its index and HEAD stay as they are.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from sudocode_coordination.api.requests import DropDrafts, GetStatus, ListDrafts, ListIssues, ListSpecs, UpdateIssue, UpdateSpec
from sudocode_coordination.askgit import MAX_OUTPUT_BYTES, git, git_environment
from sudocode_coordination.cli.committed import LISTS, Json, Target, committed_fields, in_list, in_markdown, path_of
from sudocode_coordination.cli.screen import Block
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean
from sudocode_coordination.errors import CoordinationError, UsageError
from sudocode_coordination.model import Draft

TIMEOUT_S: Final = 60.0
"""Of one git command; a large tree is read into an index once."""


def draft_drop(session: Session, args: Namespace) -> int:
    """Forget drafts."""
    if bool(args.ids) == args.all:
        raise UsageError("give DRAFT ids or --all", hint="`coord draft list` shows them")
    gone = session.ask(DropDrafts(draft_ids=tuple(args.ids), everything=args.all, agent=session.agent))
    lines: list[Block] = [f"forgotten: {clean(draft.kind)} {clean(draft.target)}".rstrip() for draft in gone]
    session.screen.show({"drafts": msgspec.to_builtins(gone)}, lines or ["no drafts"])
    return 0


def draft_commit(session: Session, args: Namespace) -> int:
    """Write what this agent drafted, and what all have published, about issues and specs into the files of a branch."""
    clone = session.clone
    root = clone.work_tree or clone.common_dir
    drafts = [draft for draft in session.ask(ListDrafts(agent=session.agent)) if draft.kind != "note"]
    wanted = _wanted(session, drafts, args.targets)
    if not wanted:
        raise UsageError(
            "there is nothing to commit", hint="coord draft list, coord issue show and coord spec show tell what there is"
        )
    branch = _branch(root, args.branch)
    base = _tip(root, branch) or _tip(root, "HEAD")
    files = _files(root, base, wanted)
    if not files:
        session.screen.show({"commit": None, "branch": args.branch, "files": []}, ["the branch has all of it already"])
        return 0
    about = ", ".join(sorted(target.name for target in wanted))
    message = args.message or f"Update {about}"[:200]
    commit = _commit(root, branch, base, files, message)
    used = [draft for draft in drafts if Target(draft.kind, draft.target) in wanted]  # type: ignore[arg-type]  # no notes
    if used:
        session.ask(DropDrafts(draft_ids=tuple(draft.draft_id for draft in used), agent=session.agent))
    if args.clear:
        _take_back(session, wanted)
    short = branch.removeprefix("refs/heads/")
    lines: list[Block] = [
        f"committed {commit[:10]} on {clean(short)}: {clean(about)}",
        *(f"  {clean(path)}" for path in sorted(files)),
    ]
    remote = session.ask(GetStatus()).remote.name
    lines.append(f"the checkout is as it was; next: git push {clean(remote)} {clean(shlex.quote(short))}")
    session.screen.show({"commit": commit, "branch": short, "files": sorted(files)}, lines)
    return 0


def _wanted(session: Session, drafts: Sequence[Draft], names: Sequence[str]) -> dict[Target, dict[str, Json]]:
    """What to write: live fields of everyone, and over them the agent's own drafts."""
    found: dict[Target, dict[str, Json]] = {}
    for issue in session.ask(ListIssues()):
        found[Target("issue", issue.issue_id)] = {name: field.value for name, field in issue.fields.items()}
    for spec in session.ask(ListSpecs()):
        found[Target("spec", spec.spec_path)] = {name: field.value for name, field in spec.fields.items()}
    for draft in drafts:
        assert draft.kind != "note"
        found.setdefault(Target(draft.kind, draft.target), {}).update(draft.fields)
    if names:
        by_name = {target.name: target for target in found}
        by_name |= {draft.draft_id: Target(draft.kind, draft.target) for draft in drafts}  # type: ignore[arg-type]  # no notes
        for name in names:
            if name not in by_name:
                raise UsageError(f"{name!r} is no draft, and nobody has published anything about it", hint="coord draft list")
        chosen = {by_name[name] for name in names}
        found = {target: fields for target, fields in found.items() if target in chosen}
    return {target: committed_fields(fields) for target, fields in found.items() if fields}


def _take_back(session: Session, wanted: dict[Target, dict[str, Json]]) -> None:
    """The own live values of what is committed now."""
    for issue in session.ask(ListIssues()):
        if Target("issue", issue.issue_id) in wanted:
            session.ask(UpdateIssue(issue_id=issue.issue_id, fields=dict.fromkeys(issue.fields), agent=session.agent))
    for spec in session.ask(ListSpecs()):
        if Target("spec", spec.spec_path) in wanted:
            session.ask(UpdateSpec(spec_path=spec.spec_path, fields=dict.fromkeys(spec.fields), agent=session.agent))


# --- git ------------------------------------------------------------------------------------------------------------------


def _branch(root: str, name: str) -> str:
    """Its full name.

    Raises:
        UsageError: it can't be one, or is checked out.
    """
    if name.startswith("-") or not git(root, "check-ref-format", "--branch", name).ok:
        raise UsageError(f"{name!r} is no name of a branch", hint="for example --branch specs/token-refresh")
    full = f"refs/heads/{name}"
    trees = git(root, "worktree", "list", "--porcelain").text.splitlines()
    if f"branch {full}" in trees:
        raise UsageError(f"{name} is checked out, and its files would not follow", hint="name another branch, and merge it")
    return full


def _tip(root: str, revision: str) -> str | None:
    answer = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return answer.text if answer.ok else None


def _files(root: str, base: str | None, wanted: dict[Target, dict[str, Json]]) -> dict[str, str]:
    """Path -> new text, of those that change."""
    now = datetime.now(UTC)
    listed = {kind: _at(root, base, path) is not None for kind, path in LISTS.items()}
    texts: dict[str, str | None] = {}
    of: dict[str, str] = {}
    for target, fields in wanted.items():
        path = path_of(target, listed=listed[target.kind])
        other = of.setdefault(path, target.name) if not listed[target.kind] else target.name
        if other.removeprefix("#") != target.name.removeprefix("#"):
            raise UsageError(f"{other!r} and {target.name!r} are both {path}", hint="name what to commit, one of the two at a time")
        before = texts.get(path, _at(root, base, path))
        try:
            new = in_list(before or "", target, fields, now) if listed[target.kind] else in_markdown(before, target, fields)
        except CoordinationError as error:
            raise CoordinationError(f"{path}: {error.message}", hint=error.hint) from None
        texts[path] = new
    return {path: text for path, text in texts.items() if text is not None and text != _at(root, base, path)}


def _at(root: str, base: str | None, path: str) -> str | None:
    """A file of the commit; None if it has none.

    Raises:
        CoordinationError: it is there, and what of it is not written could not be kept.
    """
    answer = git(root, "cat-file", "blob", f"{base}:{path}") if base is not None else None
    if answer is None or not answer.ok:
        return None
    wrong = "has 8 MB and more" if len(answer.out) >= MAX_OUTPUT_BYTES else ""
    if git(root, "ls-tree", str(base), "--", path).text.startswith("120000"):
        wrong = "is a link"
    try:
        text = answer.out.decode("utf-8")
    except UnicodeDecodeError:
        wrong = wrong or "is no UTF-8 text"
    if wrong:
        raise CoordinationError(f"{path} {wrong}", hint="nothing was committed; name the TARGETs that are to be, without it")
    return text


def _commit(root: str, branch: str, base: str | None, files: dict[str, str], message: str) -> str:
    """A commit on the branch; the branch moves only if it is where it was."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        if base is not None:
            _git(root, "read-tree", base, environment=index)
        for path, text in files.items():
            blob = _git(root, "hash-object", "-w", "--stdin", give=text.encode())
            mode = _mode(root, base, path)
            _git(root, "update-index", "--add", "--cacheinfo", f"{mode},{blob},{path}", environment=index)
        tree = _git(root, "write-tree", environment=index)
    parents = ["-p", base] if base is not None else []
    commit = _git(root, "commit-tree", tree, *parents, "-F", "-", give=message.encode())
    before = _tip(root, branch) or "0" * len(commit)
    _git(root, "update-ref", "-m", "coord draft commit", branch, commit, before)
    return commit


def _mode(root: str, base: str | None, path: str) -> str:
    listed = git(root, "ls-tree", base, "--", path).text if base is not None else ""
    return listed.split(" ", 1)[0] if listed.startswith("100") else "100644"


def _git(root: str, *arguments: str, give: bytes = b"", environment: dict[str, str] | None = None) -> str:
    """As `askgit.git`, with an index of our own if one is named.

    Raises:
        CoordinationError: git refused.
    """
    done = subprocess.run(
        ["git", "-C", root, *arguments],
        input=give,
        env={**git_environment(), **(environment or {})},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise CoordinationError(f"git {arguments[0]}: {clean(said or os.strerror(5))}", hint="nothing was committed; try again")
    return done.stdout.decode().strip()
