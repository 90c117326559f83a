"""Asking git something: never a prompt, never longer than its time limit."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Final

LOCAL_TIMEOUT_S: Final = 10.0
"""Questions to the repository itself; a cold disk can be slow."""
REMOTE_TIMEOUT_S: Final = 15.0
"""Questions to the remote: longer, and a person thinks that it hangs."""
_DROPPED: Final = frozenset(("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_NAMESPACE"))
"""Set inside of hooks; the folder is said with `-C`, and these would overrule it."""
_REMOTE_COMMANDS: Final = ("ls-remote", "fetch")
MAX_OUTPUT_BYTES: Final = 8 * 1024 * 1024
"""Of one answer that is used; a hostile branch can be of any size."""
OVERTAKEN: Final = (
    r"stale info|fetch first|non-fast-forward|cannot lock ref|failed to update ref|failed to lock|incorrect old value"
    r"|reference already exists|unable to lock|\.lock'?: File exists|is at \S+ but expected"
)
"""Pattern of what git and remotes say of a push if somebody else's was first, or holds a lock at this moment."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What git said. `code` None: it took too long, or there is no git; `error` says which."""

    code: int | None
    out: bytes
    error: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace").strip()


def git_environment() -> dict[str, str]:
    """The environment for a git that may not ask anybody anything."""
    return {
        **{name: value for name, value in os.environ.items() if name not in _DROPPED},
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "SSH_ASKPASS": "true",
        "GCM_INTERACTIVE": "never",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
    }


def remote_environment(folder: str) -> dict[str, str]:
    """That, with an ssh that asks nothing where the user has named none: theirs may know the key that the remote wants."""
    environment = git_environment()
    if {"GIT_SSH_COMMAND", "GIT_SSH"} & environment.keys() or git(folder, "config", "--get", "core.sshCommand").ok:
        return environment
    return {**environment, "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10"}


def git(folder: str, *arguments: str, timeout_s: float = LOCAL_TIMEOUT_S, give: bytes = b"", index: str | None = None) -> Answer:
    """Run git in a folder; whatever happens comes back as an answer.

    Args:
        index: absolute path of another index than the work tree's own one.
    """
    environment = remote_environment(folder) if arguments[0] in _REMOTE_COMMANDS else git_environment()
    if index is not None:
        environment["GIT_INDEX_FILE"] = index
    try:
        # A session of its own: ssh would ask for passwords on the terminal itself, and helpers die with the group.
        process = subprocess.Popen(
            ["git", "-C", folder, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return Answer(None, b"", f"git can't be started: {error.strerror}")
    with process:
        try:
            out, err = process.communicate(give, timeout_s)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.communicate()
            return Answer(None, b"", f"no answer in {timeout_s:g} s")
        except BaseException:
            _kill_group(process.pid)
            raise
    return Answer(process.returncode, out[:MAX_OUTPUT_BYTES], err.decode("utf-8", "replace").strip())


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has just ended by itself
