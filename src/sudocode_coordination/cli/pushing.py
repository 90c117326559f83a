"""`coord push`: the branch and the strict lease table in one atomic push, so that a stale holder publishes nothing.

The daemon makes a new commit on the table, which only lands if the table has not moved since; git pushes it together with the
work. If the table moved because of somebody else's leases, the commit is made anew; if it moved because the lease is gone, the
daemon says who has it, and nothing is pushed.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from sudocode_coordination.api.requests import GetStatus, PreparedPush, PreparePush, PushDone
from sudocode_coordination.askgit import OVERTAKEN, git
from sudocode_coordination.cli import render
from sudocode_coordination.cli.screen import Screen
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean
from sudocode_coordination.errors import RemoteError, UsageError

FENCED: Final = "SUDOCODE_FENCED_PUSH"
"""Set for git and its hooks while it pushes: the table is the condition of this push, and need not be asked again."""
TRIES: Final = 12
"""Lost races for the table in a row before it is given up; each waits longer."""
PREPARE_TIMEOUT_MS: Final = 60_000
"""The daemon may have to read the table first."""
_BACKOFF_S: Final = 0.1
_MAX_BACKOFF_S: Final = 2.0
_WITH_VALUE: Final = frozenset(("-o", "--push-option", "--receive-pack", "--exec", "--recurse-submodules"))
"""Options of `git push` whose value is the next argument."""
_UNFENCEABLE: Final = frozenset(("--all", "--branches", "--mirror", "--delete", "-d", "--prune", "--no-atomic"))
"""They take no refspecs beside them, would act on the table too, or undo what makes the push safe."""
_REPO: Final = re.compile(r"--repo?(?:=(.*))?", re.DOTALL)
"""Another way to name the remote. It is no option to hand on: a remote that is said out loud overrules it in git."""
_SHORT: Final = re.compile(r"-(?!-)([^o]*)((?:o.*)?)", re.DOTALL)
"""Short options of one letter each, up to the one that takes the rest as its value."""
_MAX_SAID: Final = 1_000
"""Characters of git's words in an error with `--json`, the last ones."""
_CONTENTION: Final = re.compile(OVERTAKEN)


class Wanted(NamedTuple):
    """What is to be pushed: options for git as they came, the remote, and refspecs."""

    options: tuple[str, ...]
    remote: str
    refspecs: tuple[str, ...]
    dry_run: bool = False


def push(session: Session, args: Namespace) -> int:
    """Push with the agent's strict leases as the condition."""
    folder = os.getcwd()  # noqa: PTH109 - as the user's shell has it
    status = session.ask(GetStatus())
    wanted = parse_push(args.arguments, folder, status.remote.name)
    for attempt in range(TRIES):
        with session.screen.progress("asking for the strict leases"):
            prepared = session.ask(PreparePush(agent=session.agent), timeout_ms=PREPARE_TIMEOUT_MS)
        if not prepared.commit:
            session.screen.note("no strict lease is held: pushing without one")
        done = _git_push(wanted, prepared, session.screen, folder)
        if prepared.commit:
            session.ask(PushDone(commit=prepared.commit, landed=done.returncode == 0 and not wanted.dry_run))
        table, others = _split(done.stdout, prepared.ref)
        if done.returncode == 0:
            return _tell(session.screen, prepared, others, dry_run=wanted.dry_run)
        if not (prepared.commit and table.startswith("!") and _CONTENTION.search(table)):
            break
        time.sleep(random.uniform(0, min(_MAX_BACKOFF_S, _BACKOFF_S * 2**attempt)))
    for line in others:
        session.screen.note(clean(line.replace("\t", " ")))
    if table.startswith("!") and "atomic push failed" not in table:
        reason = table.split("\t")[-1]
        raise RemoteError(f"nothing was pushed: the lease table did not take it: {reason}", hint="try again; `coord doctor` looks")
    if session.screen.as_json:  # nothing is above it
        said = [*(clean(line.replace("\t", " ")) for line in others), *_said(done.stderr or "")]
        message = f"nothing was pushed: git push failed: {'; '.join(said)[-_MAX_SAID:] or 'without a word'}"
        raise RemoteError(message, hint="fix what git says, then `coord push` again")
    raise RemoteError("nothing was pushed: git push failed", hint="what git said is above; fix that, then `coord push` again")


def _said(text: str) -> list[str]:
    """What matters of git's words: no progress, no advice."""
    return [clean(line) for line in re.split(r"[\r\n]+", text) if line.startswith(("error:", "fatal:", "remote:", "! "))]


def parse_push(arguments: Sequence[str], folder: str, table_remote: str) -> Wanted:
    """What the arguments of `git push` mean, with what it would add by itself said out loud: the remote and the branch.

    Raises:
        UsageError: an option that can't be fenced, another remote than the table's, or no branch to push.
    """
    options: list[str] = []
    words: list[str] = []
    force, repo = False, ""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if short := _SHORT.fullmatch(word):
            force = force or "f" in short[1]
            if not (word := "-" + short[1].replace("f", "") + short[2]).strip("-"):
                continue
        if word in _UNFENCEABLE or (short and "d" in short[1]) or (len(word) > 2 and any(o.startswith(word) for o in _UNFENCEABLE)):
            raise UsageError(
                f"{word} can't be fenced by leases", hint=f"name the branches, or use `git push {word}` without leases"
            )
        if (named := _REPO.fullmatch(word)) and (named[1] is not None or rest):
            repo = rest.pop(0) if named[1] is None else named[1]
        elif word in _WITH_VALUE and rest:
            options += [word, rest.pop(0)]
        elif word == "--force":
            force = True
        elif word.startswith("-"):
            options.append(word)
        else:
            words.append(word)
    remote = words[0] if words else repo or _default_remote(folder, table_remote)
    if remote != table_remote and _push_url(folder, remote) != _push_url(folder, table_remote):
        raise UsageError(
            f"the lease table is on {table_remote}, not on {remote}",
            hint=f"`coord push {table_remote} …`, or `git push {remote} …` without leases",
        )
    refspecs = tuple(words[1:]) or (_default_refspec(folder),)
    if force:  # for each of them alone: git's `--force` would overrule the condition on the table as well
        refspecs = tuple(spec if spec.startswith(("+", "tag ")) else f"+{spec}" for spec in refspecs)
    dry_run = any("--dry-run".startswith(o) if o.startswith("--d") else (m := _SHORT.fullmatch(o)) and "n" in m[1] for o in options)
    return Wanted(tuple(options), table_remote, refspecs, dry_run)


def _default_remote(folder: str, table_remote: str) -> str:
    branch = git(folder, "symbolic-ref", "--quiet", "--short", "HEAD").text
    for key in (f"branch.{branch}.pushRemote", "remote.pushDefault", f"branch.{branch}.remote"):
        answer = git(folder, "config", "--get", key)
        if answer.ok and answer.text and answer.text != ".":
            return answer.text
    return table_remote


def _push_url(folder: str, remote: str) -> str:
    answer = git(folder, "remote", "get-url", "--push", "--", remote)
    return answer.text if answer.ok else remote


def _default_refspec(folder: str) -> str:
    head = git(folder, "symbolic-ref", "--quiet", "HEAD")
    if not head.ok:
        raise UsageError("HEAD is detached: there is no branch to push", hint="name it: `coord push origin HEAD:refs/heads/BRANCH`")
    upstream = git(folder, "config", "--get", f"branch.{head.text.removeprefix('refs/heads/')}.merge")
    follow = git(folder, "config", "--get", "push.default").text in ("upstream", "tracking")
    return f"{head.text}:{upstream.text if follow and upstream.ok and upstream.text else head.text}"


def _git_push(wanted: Wanted, prepared: PreparedPush, screen: Screen, folder: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "push", "--porcelain", "--atomic", *wanted.options]
    environment = {**os.environ, FENCED: "1"}
    fence: tuple[str, ...] = ()
    if prepared.commit:
        command.append(f"--force-with-lease={prepared.ref}:{prepared.parent}")
        fence = (f"{prepared.commit}:{prepared.ref}",)
        others = environment.get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "")
        environment["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = os.pathsep.join(p for p in (_quoted(prepared.objects), others) if p)
    # Standard error is the user's: progress, questions for a password, what the remote's hooks say. As when they push by hand.
    return subprocess.run(
        [*command, "--", wanted.remote, *wanted.refspecs, *fence],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if screen.as_json else None,
        text=True,
        errors="replace",
        check=False,
    )


def _quoted(path: str) -> str:
    """As git reads a list of folders: one with a colon or a quote in its name is written like a C string."""
    if os.pathsep not in path and not path.startswith('"'):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _split(porcelain: str, ref: str) -> tuple[str, list[str]]:
    """The line about the table, and those about everything else."""
    table, others = "", []
    for line in porcelain.splitlines():
        fields = line.split("\t")
        if ref and len(fields) >= 2 and fields[1].endswith(f":{ref}"):
            table = line
        elif len(fields) >= 2:
            others.append(line)
    return table, others


def _tell(screen: Screen, prepared: PreparedPush, others: Sequence[str], *, dry_run: bool) -> int:
    document = {
        "pushed": [_fields(line) for line in others],
        "leases": msgspec.to_builtins(prepared.leases),
        "commit": prepared.commit or None,
        "dryRun": dry_run,
    }
    would = "would be " if dry_run else ""
    held = [f"{would}fenced by {render.resource_names(lease.resources)}, token {lease.token}" for lease in prepared.leases]
    screen.show(document, [*(clean(line.replace("\t", " ")) for line in others), *held])
    return 0


def _fields(line: str) -> dict[str, str]:
    flag, refs, summary, *_ = [*line.split("\t"), "", ""]
    source, _, target = refs.rpartition(":")
    return {"flag": flag.strip() or " ", "from": source, "to": target, "summary": summary}
