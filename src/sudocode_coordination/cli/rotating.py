"""`coord rotate-key`: a new key for the clone, whether its daemon runs or not.

    running daemon: leases released, live fields left on the disk, goodbye, records kept  ->  stopped
    key: replaced on the disk, the old one is gone                                        ->  rotated
    daemon: started again as it was; one push replaces the old records                    ->  joined

Cut off before the second step nothing has changed but that the daemon is stopped; after it, the next `coord start` goes on.
"""

from __future__ import annotations

import json
import subprocess
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sudocode_coordination.api.requests import GetStatus, HandOver, Status
from sudocode_coordination.cli.lifecycle import LEAVING_S, daemon_command, spawn, wait_ended
from sudocode_coordination.cli.screen import Block
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean
from sudocode_coordination.config import CONFIG_FILE
from sudocode_coordination.errors import CoordinationError, DaemonError, NoDaemonError, TimedOutError, error_from_code
from sudocode_coordination.place import Clone

INFO_FILE: Final = "daemon.json"
"""Written by the daemon (`daemon/lifecycle.py`)."""


def rotate_key(session: Session, args: Namespace) -> int:
    """Give the clone a new key."""
    clone, before, flags = session.clone, None, None
    with suppress(NoDaemonError):  # nothing to stop then, and nothing to start again
        before = session.ask(GetStatus(), timeout_ms=args.timeout)
    if before is not None:
        flags = _flags(clone)
        with session.screen.progress("stopping the daemon"):
            session.ask(HandOver(), timeout_ms=args.timeout)
            session.close()
            if not wait_ended(clone, LEAVING_S):
                raise DaemonError("the daemon has released everything, but its process has not ended", hint="coord stop")
    with session.screen.progress("making a new key"):
        old, new = _new_key(clone, args.timeout / 1000)
    if flags is not None:
        with session.screen.progress("starting the daemon"):
            _start_again(clone, flags, new, args.timeout / 1000)
    released = 0 if before is None else sum(agent.leases_held for agent in before.agents)
    answer = {"oldPeerId": old, "newPeerId": new, "leasesReleased": released, "restarted": flags is not None}
    session.screen.show(answer, _said(before, answer))
    return 0


def _said(before: Status | None, answer: dict[str, Any]) -> list[Block]:
    lines: list[Block] = [f"new peer id: {answer['newPeerId']}", f"before: {answer['oldPeerId']}; its key is gone from this clone"]
    if before is None:
        lines.append("no daemon ran: the next coord start replaces the old records on the branch")
    else:
        lines.append(f"leases released: {answer['leasesReleased']}; the daemon runs again, and the others are told")
    return [*lines, f"if {CONFIG_FILE} lists peers (allowed_peers), put the new id there and take the old one out"]


def _flags(clone: Clone) -> dict[str, Any]:
    """What the running daemon was started with."""
    try:
        found = json.loads(Path(clone.state_file(INFO_FILE)).read_text("utf-8")).get("flags", {})
    except (OSError, ValueError, AttributeError):
        return {}  # a daemon of an older version tells none; the configuration and the environment count all the same
    return found if isinstance(found, dict) else {}


def _new_key(clone: Clone, timeout_s: float) -> tuple[str, str]:
    """The old peer id and the new one.

    Raises:
        CoordinationError: the clone has its old key.
    """
    try:
        done = subprocess.run(
            daemon_command(clone, {}, "--new-key"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimedOutError("the new key is not made yet", hint="coord rotate-key again") from None
    try:
        said = json.loads(done.stdout)
    except ValueError:
        raise CoordinationError(
            f"no new key was made: {clean(done.stderr, 300)}", hint="coord start goes on with the old one"
        ) from None
    if "error" in said:
        error = said["error"]
        raise error_from_code(error["code"], error["message"], error["hint"])
    return said["old"], said["new"]


def _start_again(clone: Clone, flags: dict[str, Any], new: str, timeout_s: float) -> None:
    try:
        spawn(clone, flags, timeout_s=timeout_s)
    except CoordinationError as error:
        hint = f"the key is changed (new peer id {new}); coord start goes on from there"
        raise error_from_code(error.code, f"the daemon could not be started again: {error.message}", hint) from None
