"""Every error that users can meet.

    CoordinationError
    ├── UsageError                exit 2: what was asked for makes no sense
    │   ├── ConfigError               a configuration key or value
    │   └── ResourceError             a path or an id that can't be leased
    ├── HeldError                 exit 3: somebody else holds it
    ├── DaemonError               exit 4: no daemon to talk to
    │   ├── NoDaemonError             none runs in this clone
    │   └── DaemonBusyError           it did not answer in time
    ├── AlreadyRunningError       exit 1: a daemon runs in this clone already
    ├── NotARepositoryError       exit 1
    ├── RemoteError               exit 1: the git remote refused or can't be reached
    ├── NetworkError              exit 1: no address to listen on, …
    ├── StorageError              exit 1: the disk is full, read-only or corrupt
    ├── ProtocolError             exit 1: bytes that are not what they should be
    └── TimedOutError             exit 1

Each carries a stable `code` for programs and a `hint`, the next step, for people.
"""

from __future__ import annotations

from typing import ClassVar


class CoordinationError(Exception):
    """Base of every error of this package.

    Attributes:
        code: stable machine-readable name; it is what `--json` prints.
        exit_code: what the command line exits with.
        hint: the next step, in plain words; may be empty.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(CoordinationError):
    """The request makes no sense as it stands."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """A configuration key is unknown or its value impossible."""

    code = "config"


class ResourceError(UsageError):
    """A path or id can't name a resource of this repository."""

    code = "resource"


class HeldError(CoordinationError):
    """Another agent holds what was asked for."""

    code = "held"
    exit_code = 3


class DaemonError(CoordinationError):
    """There is no daemon to talk to."""

    code = "daemon"
    exit_code = 4


class NoDaemonError(DaemonError):
    """No daemon runs in this clone."""

    code = "no-daemon"


class DaemonBusyError(DaemonError):
    """The daemon did not answer in time."""

    code = "daemon-busy"


class AlreadyRunningError(CoordinationError):
    """A daemon runs in this clone already."""

    code = "already-running"


class NotARepositoryError(CoordinationError):
    """The folder is in no git repository."""

    code = "not-a-repository"


class RemoteError(CoordinationError):
    """The git remote refused, or can't be reached."""

    code = "remote"


class NetworkError(CoordinationError):
    """The network part can't do what was asked."""

    code = "network"


class StorageError(CoordinationError):
    """The disk is full, read-only or holds something corrupt."""

    code = "storage"


class ProtocolError(CoordinationError):
    """Received bytes are not what they should be."""

    code = "protocol"


class TimedOutError(CoordinationError):
    """It took longer than it may."""

    code = "timeout"


def _tree(root: type[CoordinationError]) -> dict[str, type[CoordinationError]]:
    found = {root.code: root}
    for sub in root.__subclasses__():
        found.update(_tree(sub))
    return found


def error_from_code(code: str, message: str, hint: str = "") -> CoordinationError:
    """The error that an answer of the daemon stands for; unknown codes give the base class."""
    return _tree(CoordinationError).get(code, CoordinationError)(message, hint=hint)
