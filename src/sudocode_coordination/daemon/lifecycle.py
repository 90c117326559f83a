"""What a daemon holds while it lives: the clone's lock, the socket, its log, and the files that tell of it.

daemon.lock   locked (flock) for as long as the process lives, whatever ends it; its pid inside
daemon.sock   the socket, or `socket-path` with the place of it
daemon.json   {"pid", "version", "startedAt", "agentId", "socket", "flags"}
daemon.log    what it had to say, bounded; daemon.log.1 before it
agent-id      the default agent's generated id, kept over restarts
home          where this folder was when the last daemon started
"""

from __future__ import annotations

import errno
import fcntl
import logging
import logging.handlers
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from sudocode_coordination import __version__
from sudocode_coordination.askgit import git
from sudocode_coordination.config import (
    CONFIG_FILE,
    CoordinationConfig,
    generate_agent_id,
    load_config,
    names_host,
    read_config_file,
    read_environment,
)
from sudocode_coordination.errors import AlreadyRunningError, StorageError
from sudocode_coordination.model import AGENT_ID_PATTERN
from sudocode_coordination.place import (
    HOME_FILE,
    IDENTITY_FILE,
    SOCKET_POINTER,
    Clone,
    copied_from,
    default_socket_path,
    home_of,
    private_dir,
    runtime_socket_path,
)

LOCK_FILE: Final = "daemon.lock"
INFO_FILE: Final = "daemon.json"
LOG_FILE: Final = "daemon.log"
AGENT_ID_FILE: Final = "agent-id"
MAX_LOG_BYTES: Final = 1 << 20
"""Of each of the two log files."""
BACKLOG: Final = 512
"""Connections that the kernel keeps waiting for accept; beyond it they fail at once. Twice as many as are served."""
_NO_SOCKETS_HERE: Final = (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EACCES)
"""What file systems say that hold no sockets (shared folders of virtual machines, some network ones)."""

log = logging.getLogger(__name__)


class Holding:
    """The right to be the clone's daemon, from `hold()` until `release()` or the end of the process."""

    def __init__(self, clone: Clone, lock: int) -> None:
        self.clone = clone
        self.flags: Mapping[str, Any] = {}
        """What the daemon was started with, so that it can be started again like this."""
        self._lock = lock
        self._socket_path: str | None = None

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def listen(self) -> socket.socket:
        """The daemon's socket, listening. A stale one is replaced: whoever holds the lock knows that nobody listens.

        Raises:
            StorageError: there is no place for it.
        """
        wanted = default_socket_path(self.clone)
        fallback = runtime_socket_path(self.clone)
        problem: OSError | None = None
        for path in dict.fromkeys((wanted, fallback)):
            try:
                listener = self._bind(path)
            except OSError as error:
                problem = error
                if error.errno not in _NO_SOCKETS_HERE:
                    break
                continue
            self._socket_path = path
            pointer = Path(self.clone.state_file(SOCKET_POINTER))
            if path == self.clone.state_file("daemon.sock"):
                pointer.unlink(missing_ok=True)
            else:
                write_private(pointer, path.encode("utf-8", "surrogateescape"))
            return listener
        raise StorageError(f"{wanted}: {problem}", hint="the folder must be writable and able to hold a socket")

    def _bind(self, path: str) -> socket.socket:
        private_dir(str(Path(path).parent))
        Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(path)
            Path(path).chmod(0o600)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener

    def announce(self, config: CoordinationConfig) -> None:
        """Write `daemon.json`: the daemon is active.

        Raises:
            StorageError: it can't be written.
        """
        info = {
            "pid": os.getpid(),
            "version": __version__,
            "startedAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "agentId": config.agent_id,
            "socket": os.fsencode(self._socket_path or "").decode("utf-8", "backslashreplace"),
            "flags": dict(self.flags),
        }
        write_private(Path(self.clone.state_file(INFO_FILE)), msgspec.json.encode(info) + b"\n")

    def release(self) -> None:
        """Remove socket and `daemon.json`, then give the lock back. More than once does nothing."""
        if self._lock < 0:
            return
        paths = [self.clone.state_file(INFO_FILE)]
        if self._socket_path is not None:
            paths.append(self._socket_path)
            if self._socket_path != self.clone.state_file("daemon.sock"):
                paths.append(self.clone.state_file(SOCKET_POINTER))
        for path in paths:
            try:
                Path(path).unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s stays behind: %s", path, error)
        os.close(self._lock)
        self._lock = -1


def hold(clone: Clone) -> Holding:
    """Become the clone's daemon.

    Raises:
        AlreadyRunningError: another process is; its pid is named.
        StorageError: the state folder can't be written.
    """
    private_dir(clone.state_dir)
    path = clone.state_file(LOCK_FILE)
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(lock)
            raise
    except BlockingIOError:
        pid = running_pid(clone)
        who = f"pid {pid}" if pid is not None else "just starting"
        raise AlreadyRunningError(f"a daemon runs in this clone already ({who})", hint="`coord status` shows it") from None
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror}", hint="the clone's git folder must be writable, and the disk not full"
        ) from None
    return Holding(clone, lock)


def running_pid(clone: Clone) -> int | None:
    """The pid that the lock file names. It may have ended: only the lock tells."""
    try:
        text = Path(clone.state_file(LOCK_FILE)).read_text("ascii").strip()
        return int(text) if text else None
    except (OSError, ValueError):
        return None


def settle_home(clone: Clone) -> None:
    """Note where the state folder is. One that was copied with its clone gets an identity of its own: two daemons with one
    key would pass for each other, and both hold what one of them holds.

    Raises:
        StorageError: the folder can't be written.
    """
    original = copied_from(clone)
    if original is not None:
        log.warning("this clone is a copy of the one at %s: it gets an identity and an agent id of its own", original)
        for name in (IDENTITY_FILE, AGENT_ID_FILE):
            Path(clone.state_file(name)).unlink(missing_ok=True)
    write_private(Path(clone.state_file(HOME_FILE)), os.fsencode(home_of(clone)))


def settle_config(clone: Clone, flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> CoordinationConfig:
    """The configuration, with the default agent's id as it was at the last start if none is configured.

    Raises:
        ConfigError: an unknown key or an impossible value.
        StorageError: a generated id can't be kept.
    """
    root = Path(clone.root)
    given = (flags, read_environment(environment), read_config_file(root / CONFIG_FILE))
    config = load_config(root, flags, environment)
    if any(layer.get("agent_id") is not None for layer in given):
        return config
    return msgspec.structs.replace(config, agent_id=_kept_agent_id(clone, with_host=config.host_in_agent_id))


def with_case_rule(clone: Clone, config: CoordinationConfig) -> CoordinationConfig:
    """The configuration, with `ignore_case` as git has it for this clone if it is not set. Git finds out when it makes a clone;
    where it does not say, case counts."""
    if config.ignore_case is not None:
        return config
    answer = git(clone.root, "config", "--type=bool", "--get", "core.ignorecase")
    return msgspec.structs.replace(config, ignore_case=answer.text == "true")


def _kept_agent_id(clone: Clone, *, with_host: bool) -> str:
    path = Path(clone.state_file(AGENT_ID_FILE))
    try:
        kept = path.read_text("ascii").strip()
        if not AGENT_ID_PATTERN.match(kept):
            log.warning("%s holds no agent id: a new one is made", path)
        elif with_host or not names_host(kept):
            return kept
    except FileNotFoundError:
        pass
    except (OSError, UnicodeError) as error:
        log.warning("%s: %s: a new agent id is made", path, error)
    made = generate_agent_id(with_host=with_host)
    write_private(path, made.encode() + b"\n")
    return made


def write_private(path: Path, data: bytes) -> None:
    """Replace a file as a whole, readable by its owner alone.

    Raises:
        StorageError: it can't be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        hint = "the clone's git folder must be writable, and the disk not full"
        raise StorageError(f"{path}: {error.strerror}", hint=hint) from None


def log_to_file(clone: Clone) -> logging.Handler:
    """Send this package's log to `daemon.log`, and warnings of everything else.

    Raises:
        StorageError: it can't be written.
    """
    try:
        handler = logging.handlers.RotatingFileHandler(
            clone.state_file(LOG_FILE), maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
        )
        Path(clone.state_file(LOG_FILE)).chmod(0o600)
    except OSError as error:
        raise StorageError(f"{clone.state_file(LOG_FILE)}: {error.strerror}", hint="the disk may be full") from None
    logging.Formatter.default_msec_format = "%s.%03d"
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("sudocode_coordination").setLevel(logging.INFO)
    return handler
