"""`coord start` and `coord stop`."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from sudocode_coordination.api.requests import GetStatus, Status, Stop
from sudocode_coordination.cli.arguments import word_list
from sudocode_coordination.cli.render import short_peer
from sudocode_coordination.cli.screen import Block
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import clean, shown_duration
from sudocode_coordination.config import CoordinationConfig, load_config
from sudocode_coordination.errors import ConfigError, CoordinationError, DaemonError, TimedOutError, UsageError, error_from_code
from sudocode_coordination.place import Clone, copied_from, socket_path

LOCK_FILE: Final = "daemon.lock"
"""In the state folder; locked for as long as a daemon lives (`daemon/lifecycle.py`)."""
LOG_FILE: Final = "daemon.log"
LEAVING_S: Final = 10.0
"""From the answer to `stop` until the process has ended."""
MAX_REPORT_BYTES: Final = 64 * 1024
"""What a starting daemon may have to say."""


def start(session: Session, args: Namespace) -> int:
    """Start the clone's daemon and wait until it is active."""
    flags = config_flags(args)
    clone = session.clone
    load_config(Path(clone.root), flags)
    if args.foreground:
        _become_daemon(session, clone, flags)
    original = copied_from(clone)
    began = time.monotonic()
    with session.screen.progress("starting the daemon"):
        spawn(clone, flags, timeout_s=args.timeout / 1000)
        status = session.ask(GetStatus())
    elapsed_ms = round((time.monotonic() - began) * 1000)
    session.screen.show({"elapsedMs": elapsed_ms, **msgspec.to_builtins(status)}, _started(status, elapsed_ms, original))
    return 0


def _started(status: Status, elapsed_ms: int, original: str | None) -> list[Block]:
    agent = next((a.agent_id for a in status.agents if a.default), "?")
    listens = clean(", ".join(status.addresses), 400)
    took = shown_duration(elapsed_ms)
    lines: list[Block] = [f"{status.state}: agent {clean(agent)}, peer {short_peer(status.peer_id)}, listens on {listens} ({took})"]
    if original is not None:
        lines.append(f"this clone is a copy of the one at {clean(original, 400)}: it has an identity of its own from now on")
    if status.remote.state == "unreachable":
        lines.append(f"the git remote can't be reached ({clean(status.remote.reason or '?')}): no new peers until it can")
    return lines + [f"problem: {clean(problem)}" for problem in status.problems]


def config_flags(args: Namespace) -> dict[str, Any]:
    """The configuration keys that the flags of `coord start` set.

    Raises:
        UsageError: a flag and `--set` name the same key.
        ConfigError: `--set` names no key.
    """
    flags: dict[str, Any] = {
        "agent_id": args.agent_id,
        "capabilities": word_list(args.capabilities),
        "coordination_branch": args.branch,
        "git_remote": args.remote,
        "listen_addresses": word_list(args.listen),
        "announce_addresses": word_list(args.announce),
        "lease_ttl_ms": args.lease_ttl,
        "peer_discovery_interval_ms": args.discovery_interval,
        "heartbeat_interval_ms": args.heartbeat,
        "partition_policy": args.partition_policy,
    }
    flags = {key: value for key, value in flags.items() if value is not None}
    fields = {field.name: field for field in msgspec.structs.fields(CoordinationConfig)}
    for pair in args.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair!r} is not KEY=VALUE", hint="for example --set lease_ttl_ms=600000")
        if key not in fields:
            raise ConfigError(f"--set: unknown key {key!r}", hint=f"known keys: {', '.join(sorted(fields))}")
        if key in flags:
            raise UsageError(f"{key} is given twice", hint="give it once")
        flags[key] = tuple(p for p in value.split(",") if p) if isinstance(fields[key].default, tuple) else value
    return flags


def daemon_command(clone: Clone, flags: Mapping[str, Any], *more: str) -> list[str]:
    """How the daemon is run. -P: what lies in the current directory can't pass for our package."""
    config = json.dumps({key: list(value) if isinstance(value, tuple) else value for key, value in flags.items()})
    return [sys.executable, "-P", "-m", "sudocode_coordination.daemon", "--repository", clone.root, "--config", config, *more]


def _become_daemon(session: Session, clone: Clone, flags: Mapping[str, Any]) -> NoReturn:
    session.screen.note("running in the foreground; Ctrl-C stops it")
    command = daemon_command(clone, flags)
    os.execv(command[0], command)


def spawn(clone: Clone, flags: Mapping[str, Any], *, timeout_s: float) -> int:
    """Start a daemon that outlives this process; its pid, once it is active.

    Raises:
        AlreadyRunningError: one runs already.
        TimedOutError: it is not active yet; it goes on starting.
        CoordinationError: why it could not start.
    """
    reading, writing = os.pipe()
    try:
        try:
            launcher = subprocess.Popen(
                daemon_command(clone, flags, "--detach", "--ready-fd", str(writing)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(writing,),
                cwd="/",
            )
        finally:
            os.close(writing)
        with launcher:
            return wait_ready(reading, clone, timeout_s)
    finally:
        os.close(reading)


def wait_ready(pipe: int, clone: Clone, timeout_s: float) -> int:
    """Read a starting daemon's readiness pipe until it is active; its pid. Interrupted, it stops that daemon.

    Raises:
        TimedOutError: it is not active yet.
        CoordinationError: why it could not start.
    """
    pid: int = 0
    try:
        for message in _reports(pipe, timeout_s):
            pid = message.get("pid", pid)
            if message.get("ready"):
                return pid
            if "error" in message:
                error = message["error"]
                raise error_from_code(error["code"], error["message"], error["hint"])
    except KeyboardInterrupt:
        if pid:
            os.kill(pid, signal.SIGTERM)
        raise
    raise CoordinationError("the daemon ended before it was active", hint=f"see {clone.state_file(LOG_FILE)}")


def _reports(pipe: int, timeout_s: float) -> Iterator[dict[str, Any]]:
    deadline = time.monotonic() + timeout_s
    buffer = b""
    while len(buffer) < MAX_REPORT_BYTES:
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            shown = shown_duration(timeout_s * 1000)
            raise TimedOutError(
                f"the daemon is not active after {shown}; it goes on starting", hint="`coord status` shows how far it is"
            )
        chunk = os.read(pipe, 4_096)
        if not chunk:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


def stop(session: Session, args: Namespace) -> int:
    """Stop the clone's daemon; returns when it has ended."""
    with session.screen.progress("stopping the daemon"):
        wait_listening(session.clone, args.timeout / 1000)
        outcome = session.ask(Stop(), timeout_ms=args.timeout)
        session.close()
        if not wait_ended(session.clone, LEAVING_S):
            raise DaemonError("the daemon has released everything, but its process has not ended", hint=_how_to_end(session.clone))
    lines: list[Block] = ["stopped: leases released, peer record removed"]
    if outcome.record_left:
        lines = [
            "stopped: leases released",
            f"the peer record may stay on the branch until its ttl is over: {clean(outcome.record_left, 400)}",
        ]
    session.screen.show({"stopped": True, **msgspec.to_builtins(outcome)}, lines)
    return 0


def _how_to_end(clone: Clone) -> str:
    try:
        pid = int(Path(clone.state_file(LOCK_FILE)).read_text("ascii"))
    except (OSError, ValueError):
        return f"see {clone.state_file(LOG_FILE)}"
    return f"end it with `kill -9 {pid}`"


def wait_ended(clone: Clone, limit_s: float) -> bool:
    """Wait until no daemon has the clone's lock, so that the next start succeeds."""
    deadline = time.monotonic() + limit_s
    while not _unlocked(clone):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_listening(clone: Clone, limit_s: float) -> None:
    """A daemon that has just been started has the lock before it has its socket: wait for that, or for its end."""
    deadline = time.monotonic() + limit_s
    while not os.path.lexists(socket_path(clone)) and not _unlocked(clone) and time.monotonic() < deadline:
        time.sleep(0.01)


def _unlocked(clone: Clone) -> bool:
    try:
        handle = os.open(clone.state_file(LOCK_FILE), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(handle)
