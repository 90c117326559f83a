"""`coord doctor --published`: what this clone publishes now, where, and for whom, as it is there."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sudocode_coordination.api.requests import GetPublished, Published
from sudocode_coordination.askgit import git
from sudocode_coordination.cli.branch import PEERS_FOLDER, read_branch
from sudocode_coordination.cli.screen import Block, Styled
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean
from sudocode_coordination.errors import RemoteError

SHOWN_CHARS = 2_000
"""Of one value; `--json` has all of it."""


def show_published(session: Session) -> int:
    """Show it.

    Raises:
        NoDaemonError: none runs, so nothing of this clone is kept up to date anywhere.
        RemoteError: the branch can't be read.
    """
    with session.screen.progress("looking at what is published"):
        answer = session.ask(GetPublished())
        commit, records = _own_records(session, answer)
    document = {
        "peerId": answer.peer_id,
        "branch": {
            "remote": answer.remote,
            "branch": answer.branch,
            "commit": commit,
            "commitText": _commit_text(session, commit),
            "records": {f"{PEERS_FOLDER}/{name}": data.decode("utf-8", "replace") for name, data in records},
        },
        "table": {"ref": answer.table_ref, "leases": answer.table},
        "peers": answer.peers,
        "addresses": answer.addresses,
        "network": msgspec.to_builtins(answer.network),
        "relays": msgspec.to_builtins(answer.relays),
    }
    session.screen.show(document, _blocks(answer, document))
    return 0


def _own_records(session: Session, answer: Published) -> tuple[str | None, list[tuple[str, bytes]]]:
    view = read_branch(session.clone.root, answer.remote, answer.branch)
    if view.trouble:
        raise RemoteError(f"the branch can't be read: {view.trouble}", hint=f"try: git ls-remote {answer.remote}")
    return view.commit, [(name, data) for name, data in view.files if _peer_in(data) == answer.peer_id]


def _peer_in(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)["ext"]["peerId"]
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
        return None  # a file of somebody else


def _commit_text(session: Session, commit: str | None) -> str:
    """Of the newest commit on the branch: who it says made it, and its signature if it has one."""
    return git(session.clone.root, "cat-file", "commit", commit).text if commit is not None else ""


def _blocks(answer: Published, document: dict[str, Any]) -> list[Block]:
    branch = document["branch"]
    lines: list[Block] = [Styled(f"on {clean(answer.remote)}, branch {clean(answer.branch)}: for all who can read it", "bold")]
    for path, text in branch["records"].items():
        lines.append(clean(path))
        lines += [f"  {clean(line, 400)}" for line in text.splitlines()]
    lines.append("commits, the newest:")
    lines += [f"  {clean(line, 400)}" for line in branch["commitText"].splitlines()]
    lines.append(
        Styled(f"in the table of strict leases, {clean(answer.table_ref) or 'not in use'}: for the same, with its history", "bold")
    )
    lines += [f"  {clean(path)}: {clean(text.strip(), SHOWN_CHARS)}" for path, text in answer.table.items()]
    lines.append(Styled("with every connected peer, which also sees the address that it is connected from", "bold"))
    for root, entries in answer.peers.items():
        lines += [
            f"  {clean(root)} {clean(key)}: {clean(json.dumps(value, ensure_ascii=False), SHOWN_CHARS)}"
            for key, value in entries.items()
        ]
    lines += [f"  address {clean(address)}" for address in answer.addresses]
    return [*lines, *_network(answer), *_relays(answer)]


def _network(answer: Published) -> list[Block]:
    told = answer.network
    lines: list[Block] = [Styled("on the local network, by multicast DNS", "bold")]
    if told is None:
        return [*lines, "  nothing"]
    return [*lines, *(f"  {told.name}.{told.service} {address} port {told.port}" for address in told.addresses)]


def _relays(answer: Published) -> list[Block]:
    told = answer.relays
    lines: list[Block] = [Styled("with relays, which also see from where, with whom, when and how much, but not what", "bold")]
    lines += [f"  {clean(relay)} knows this peer id, and brings others to it" for relay in told.used]
    lines += [f"  address {clean(address)}" for address in told.announced]
    if told.serves:
        lines += [f"  as a relay itself, for peers that use it: address {clean(address)}" for address in told.told]
    return lines if len(lines) > 1 else [*lines, "  nothing"]
