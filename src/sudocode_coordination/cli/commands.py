"""Commands that ask the daemon one thing: arguments become a request, the answer is shown."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from sudocode_coordination.api.requests import (
    AcquireLease,
    CheckConflicts,
    ClearWork,
    GetStatus,
    ListDrafts,
    ListIssues,
    ListLeases,
    ListPeers,
    ListSpecs,
    ListWork,
    PublishDraft,
    ReleaseLease,
    RenewLease,
    SaveDraft,
    SetWork,
    UpdateIssue,
    UpdateSpec,
)
from sudocode_coordination.cli import render
from sudocode_coordination.cli.arguments import key_values, parse_duration
from sudocode_coordination.cli.conflicts import check_text
from sudocode_coordination.cli.history import history
from sudocode_coordination.cli.screen import Block, error_document
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean, resource_name
from sudocode_coordination.client.checkout import contains, leaving_commit, named_commit
from sudocode_coordination.errors import HeldError, UsageError
from sudocode_coordination.model import Json

DONE = 0
HELD = 3
STRICT_TIMEOUT_MS = 120_000
"""Of a strict lease that need not wait: pushes to a remote that answers slowly, and races for it."""
CHECK_TIMEOUT_MS = 3_000
"""Of `coord check`, which runs at every edit: the daemon reads its memory only, and one that hangs must not hold up work."""


def _show(session: Session, key: str | None, answer: Any, blocks: Sequence[Block]) -> int:
    """`key`: lists go into an object, so that more can stand beside them one day."""
    built = msgspec.to_builtins(answer)
    session.screen.show(built if key is None else {key: built}, blocks)
    return DONE


def status(session: Session, args: Namespace) -> int:
    del args
    answer = session.ask(GetStatus())
    return _show(session, None, answer, render.status_blocks(answer))


def peers(session: Session, args: Namespace) -> int:
    del args
    answer = session.ask(ListPeers())
    return _show(session, "peers", answer, render.peers_blocks(answer))


def lease(session: Session, args: Namespace) -> int:
    texts, wait_ms = _lease_arguments(args.resources, args.wait)
    resources = session.resources(texts, args.type)
    request = AcquireLease(
        resources=resources,
        priority=args.priority,
        ttl_ms=args.ttl,
        mode="shared" if args.shared else "exclusive",
        wait_ms=wait_ms,
        note=args.note,
        strict=args.strict,
        agent=session.agent,
    )
    timeout_ms = None if wait_ms == 0 else (wait_ms or 0) + (STRICT_TIMEOUT_MS if args.strict else 30_000)
    with session.screen.progress(f"waiting for {render.resource_names(resources)}"):
        outcome = session.ask(request, timeout_ms=timeout_ms)
    document = msgspec.to_builtins(outcome)
    if outcome.granted and outcome.lease is not None:
        blocks: list[Block] = [render.granted_line(outcome.lease, outcome.waited_ms)]
        handover = outcome.lease.handover
        if handover is not None:
            document["handoverContained"] = held = contains(Path.cwd(), handover.commit)
            blocks += render.handover_lines(handover, held)
        session.screen.show(document, blocks)
        return DONE
    options = [*(("--type", args.type) if args.type else ()), *(("--shared",) if args.shared else ())]
    message, hint = render.denial(outcome, [*texts, *options, *(("--strict",) if args.strict else ())], session.named_agent)
    error = HeldError(message, hint=hint)
    if session.screen.as_json:
        session.screen.document({**document, "error": error_document(error)})
    else:
        session.screen.error(error)
    return HELD


_LIKE_A_DURATION = re.compile(r"[-+]?[\d.]+\s*[A-Za-z]*", re.ASCII)
"""`--wait 10min` is a slip; a file of such a name can be given before the option, or with `./`."""


def _lease_arguments(resources: Sequence[str], wait: str | None) -> tuple[list[str], int | None]:
    """`--wait src/a.py` means: wait, and src/a.py is a resource."""
    texts = list(resources)
    wait_ms: int | None = None
    if wait is not None:
        try:
            # 0 means without limit on the wire; who writes `--wait 0` does not want to wait.
            wait_ms = (parse_duration(wait) or None) if wait else 0
        except UsageError:
            if _LIKE_A_DURATION.fullmatch(wait):
                raise
            texts.append(wait)
            wait_ms = 0
    if not texts:
        raise UsageError("no RESOURCE given", hint="for example `coord lease src/auth.py`")
    return texts, wait_ms


def renew(session: Session, args: Namespace) -> int:
    resources = session.resources(args.resources, args.type)
    answer = session.ask(RenewLease(resources=resources, ttl_ms=args.ttl, agent=session.agent))
    return _show(session, "leases", answer, [f"renewed {render.resource_names(held.resources)}" for held in answer])


def release(session: Session, args: Namespace) -> int:
    if bool(args.resources) == args.all:
        raise UsageError("give RESOURCEs or --all", hint="`coord leases` lists what can be released")
    if args.commit is not None and args.no_commit:
        raise UsageError("--commit and --no-commit exclude each other", hint="give one of them")
    resources = session.resources(args.resources, args.type)
    request = ReleaseLease(resources=resources, everything=args.all, to_shared=args.to_shared, agent=session.agent)
    if args.commit is not None:
        named = named_commit(Path.cwd(), args.commit)
        request = msgspec.structs.replace(request, commit=named.commit, branch=named.branch)
    elif not args.no_commit:
        held = session.ask(ListLeases(agent=session.agent))
        request = leaving_commit(request, Path.cwd(), held)
    answer = session.ask(request)
    done = "shared from now on:" if args.to_shared else "released"
    lines: list[Block] = [f"{done} {render.resource_names(ended.resources)}" for ended in answer.released]
    if lines and request.commit is not None:
        lines.append(f"left behind for whoever takes it next: {request.commit[:10]} {clean(request.branch)}".rstrip())
    lines += [
        f"let go of {render.resource_names(one.resources)}, which was lost (token {one.token}, {clean(one.reason)})"
        for one in answer.let_go
    ]
    return _show(session, None, answer, lines or ["nothing to release"])


def leases(session: Session, args: Namespace) -> int:
    if args.history is not None:
        return history(session, args)
    if args.at is not None:
        raise UsageError("--at goes with --history", hint="for example `coord leases --history src/auth.py --at 2026-01-31T14:05`")
    answer = session.ask(ListLeases(everyone=args.all, agent=session.agent))
    none = "nobody holds a lease" if args.all else "no leases (--all shows everyone's)"
    return _show(session, "leases", answer, render.leases_blocks(answer, none=none))


def check(session: Session, args: Namespace) -> int:
    resources = (
        *session.resources(args.paths),
        *session.resources(args.issue, "issue"),
        *session.resources(args.spec, "spec"),
    )
    if not resources:
        raise UsageError("nothing to check", hint="for example `coord check src/auth.py`")
    answer = session.ask(CheckConflicts(resources=resources, agent=session.agent), timeout_ms=CHECK_TIMEOUT_MS)
    document = {"conflicts": msgspec.to_builtins(answer.conflicts)}
    session.screen.show(document, [check_text(document["conflicts"], [resource_name(r) for r in resources])])
    return HELD if answer.conflicts else DONE


def work_set(session: Session, args: Namespace) -> int:
    request = SetWork(
        issues=tuple(args.issue),
        specs=tuple(session.path(spec) for spec in args.spec),
        files=tuple(session.path(file) for file in args.file),
        status=args.status,
        metadata=key_values(args.meta, "--meta"),
        agent=session.agent,
    )
    if not (request.issues or request.specs or request.files or request.status or request.metadata):
        raise UsageError("nothing to tell", hint="give --issue, --spec, --file or --status; `coord work clear` takes it back")
    answer = session.ask(request)
    return _show(session, "work", [answer], render.work_blocks([answer]))


def work_clear(session: Session, args: Namespace) -> int:
    del args
    session.ask(ClearWork(agent=session.agent))
    session.screen.show({"cleared": True}, ["cleared"])
    return DONE


def work_show(session: Session, args: Namespace) -> int:
    del args
    # COORD_AGENT says who acts; who looks wants to see the others too, unless they say --agent.
    answer = session.ask(ListWork(agent=session.named_agent))
    return _show(session, "work", answer, render.work_blocks(answer))


def _fields(args: Namespace) -> dict[str, Json]:
    fields = key_values(args.set, "--set")
    for name in ("title", "status"):
        value = getattr(args, name)
        if value is not None:
            if name in fields:
                raise UsageError(f"--{name} and --set {name}=… are the same field", hint="give one of them")
            fields[name] = value
    if not fields:
        raise UsageError("nothing to write", hint="give --title, --status or --set KEY=VALUE")
    return fields


def issue_update(session: Session, args: Namespace) -> int:
    fields = _fields(args)
    if args.draft:
        return _save_draft(session, SaveDraft(kind="issue", target=args.id, fields=fields, agent=session.agent))
    answer = session.ask(UpdateIssue(issue_id=args.id, fields=fields, agent=session.agent))
    return _show(session, "issues", [answer], render.updates_blocks([answer]))


def issue_show(session: Session, args: Namespace) -> int:
    answer = session.ask(ListIssues(issue_id=args.id))
    return _show(session, "issues", answer, render.updates_blocks(answer))


def spec_update(session: Session, args: Namespace) -> int:
    fields = _fields(args)
    path = session.path(args.path)
    if args.draft:
        return _save_draft(session, SaveDraft(kind="spec", target=path, fields=fields, agent=session.agent))
    answer = session.ask(UpdateSpec(spec_path=path, fields=fields, agent=session.agent))
    return _show(session, "specs", [answer], render.updates_blocks([answer]))


def spec_show(session: Session, args: Namespace) -> int:
    answer = session.ask(ListSpecs(spec_path=None if args.path is None else session.path(args.path)))
    return _show(session, "specs", answer, render.updates_blocks(answer))


def _save_draft(session: Session, request: SaveDraft) -> int:
    answer = session.ask(request)
    return _show(session, "drafts", [answer], render.drafts_blocks([answer]))


def draft_list(session: Session, args: Namespace) -> int:
    del args
    answer = session.ask(ListDrafts(agent=session.agent))
    return _show(session, "drafts", answer, render.drafts_blocks(answer))


def draft_publish(session: Session, args: Namespace) -> int:
    if bool(args.ids) == args.all:
        raise UsageError("give DRAFT ids or --all", hint="`coord draft list` shows them")
    answer = session.ask(PublishDraft(draft_ids=tuple(args.ids), everything=args.all, agent=session.agent))
    blocks: list[Block] = [f"published {clean(draft.kind)} {clean(draft.target)}" for draft in answer]
    return _show(session, "drafts", answer, blocks or ["no drafts to publish"])
