"""The coordination branch as `coord doctor` reads it: without a daemon, and without trusting anything on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from sudocode_coordination.askgit import LOCAL_TIMEOUT_S, REMOTE_TIMEOUT_S, git
from sudocode_coordination.model import AGENT_ID_PATTERN, PeerRecord

PEERS_FOLDER: Final = ".sudocode/coordination/peers"
MAX_RECORD_BYTES: Final = 16_384
"""As peers have it: a larger file is no record."""
SAYS_NOTHING: Final = "Could not read from remote repository"
"""Git's last words after any trouble with ssh, which has said more before."""
MAX_RECORDS: Final = 2_000
"""Looked at: twice the most peers that can be configured."""


@dataclass(frozen=True, slots=True)
class BranchView:
    """What is on the branch. `trouble`: why nothing could be read; `commit` None: there is no such branch."""

    commit: str | None
    records: tuple[PeerRecord, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    """(file name, why)."""
    trouble: str = ""
    files: tuple[tuple[str, bytes], ...] = ()
    """(file name, content) of all that may be records."""


def read_branch(folder: str, remote: str, branch: str) -> BranchView:
    """Ask the remote for the branch, fetch it if its commit is not here yet, and read its records."""
    listed = git(folder, "ls-remote", "--", remote, f"refs/heads/{branch}", timeout_s=REMOTE_TIMEOUT_S)
    if not listed.ok:
        return BranchView(None, trouble=last_line(listed.error) or "the remote did not answer")
    commit = listed.text.split("\t")[0] if listed.text else None
    if commit is None:
        return BranchView(None)
    if not git(folder, "cat-file", "-e", f"{commit}^{{commit}}").ok:
        fetched = git(
            folder,
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-prune",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--refmap=",
            "--",
            remote,
            f"+refs/heads/{branch}:refs/remotes/{remote}/{branch}",
            timeout_s=REMOTE_TIMEOUT_S,
        )
        if not fetched.ok:
            return BranchView(commit, trouble=f"it can't be fetched: {last_line(fetched.error)}")
    return _read_records(folder, commit)


def _read_records(folder: str, commit: str) -> BranchView:
    tree = git(folder, "ls-tree", "-z", "-l", commit, "--", f"{PEERS_FOLDER}/")
    if not tree.ok:
        return BranchView(commit, trouble=last_line(tree.error))
    records: list[PeerRecord] = []
    skipped: list[tuple[str, str]] = []
    wanted: list[tuple[str, str]] = []
    entries = [entry for entry in tree.out.split(b"\0") if entry]
    for entry in entries[:MAX_RECORDS]:
        about, _, path = entry.partition(b"\t")
        mode, kind, blob, size = about.decode("ascii", "replace").split()
        name = path.decode("utf-8", "replace").rpartition("/")[2]
        if mode != "100644" or kind != "blob":
            skipped.append((name, "no plain file"))
        elif int(size) > MAX_RECORD_BYTES:
            skipped.append((name, f"{size} bytes; a record has at most {MAX_RECORD_BYTES}"))
        else:
            wanted.append((name, blob))
    if len(entries) > MAX_RECORDS:
        skipped.append(("…", f"{len(entries) - MAX_RECORDS} more files than anybody looks at"))
    files = _blobs(folder, wanted)
    for name, data in files:
        record = _parse(name, data)
        if isinstance(record, str):
            skipped.append((name, record))
        else:
            records.append(record)
    return BranchView(commit, tuple(records), tuple(skipped), files=tuple(files))


def _blobs(folder: str, wanted: list[tuple[str, str]]) -> list[tuple[str, bytes]]:
    """All of them with one process."""
    if not wanted:
        return []
    give = "".join(f"{blob}\n" for _, blob in wanted).encode()
    answer = git(folder, "cat-file", "--batch", give=give, timeout_s=LOCAL_TIMEOUT_S)
    found = []
    rest = answer.out
    for name, _ in wanted:
        head, newline, rest = rest.partition(b"\n")
        words = head.split()
        if not newline or len(words) != 3:
            found.append((name, b""))  # missing object: told as no JSON
            continue
        size = int(words[2])
        found.append((name, rest[:size]))
        rest = rest[size + 1 :]
    return found


def _parse(name: str, data: bytes) -> PeerRecord | str:
    """The record, or why it is none. Signatures are the daemon's business: it tells them in its own findings."""
    agent_id = name.removeprefix("agent-").removesuffix(".json")
    if name != f"agent-{agent_id}.json" or not AGENT_ID_PATTERN.match(agent_id):
        return "its name is not agent-<id>.json"
    try:
        record = msgspec.json.decode(data, type=PeerRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"malformed: {error}"
    if record.agent_id != agent_id:
        return "its agentId is not that of its file name"
    if parse_time(record.last_seen) is None:
        return "lastSeen is no ISO 8601 time"
    if record.ttl <= 0:
        return "its ttl is not positive"
    if not record.public_key or "signature" not in record.ext:
        return "it is not signed"
    return record


def parse_time(text: str) -> datetime | None:
    """An ISO 8601 instant; without a zone it is UTC."""
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return None
    return then if then.tzinfo is not None else then.replace(tzinfo=UTC)


def last_line(text: str) -> str:
    """Git's actual complaint stands at the end of what it says, often behind `fatal:`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line.removeprefix("fatal: ") for line in lines if line.startswith("fatal: ") and SAYS_NOTHING not in line]
    told = fatal or [line for line in lines if line.startswith(("ssh: ", "error: "))] or lines[-1:]
    return told[0] if told else ""
