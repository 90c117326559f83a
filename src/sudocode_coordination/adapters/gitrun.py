"""One `git` command as a child process: never asks, never hangs, never runs a hook, and says in short what went wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import trio

MAX_OUTPUT_BYTES: Final = 1 << 20
"""Of a command that gives no limit of its own; more is cut off by killing it."""
MAX_STDERR_BYTES: Final = 16 << 10
"""What is kept of complaints; a remote may send progress without end."""
MAX_REASON_CHARS: Final = 300
"""It is shown on one line, and kept in the state."""
_LINGER_S: Final = 1.0
"""How long output is waited for after git has ended: a background ssh (ControlPersist) may hold the pipe open for ever."""
_GENTLY_S: Final = 0.1
"""Between asking a command to end and killing it: git only has to remove its lock files."""
_CHUNK: Final = 1 << 16

_DROPPED: Final = frozenset(
    (
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
        "GIT_CURL_VERBOSE",
        "GIT_DEFAULT_HASH",
        "GIT_REFLOG_ACTION",
    )
)
"""What a hook or an alias that started us has in its environment: it points to another repository or index."""
_OF_A_REPOSITORY: Final = frozenset(("GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS", "GIT_NO_REPLACE_OBJECTS", "GIT_PROTOCOL"))
"""What git itself besides those keeps from a program that it starts in another repository on this machine."""
_SETTINGS: Final = (
    "core.hooksPath=/dev/null",
    "core.logAllRefUpdates=false",
    "core.fsmonitor=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.writeCommitGraph=false",
    "push.negotiate=false",
    "push.gpgSign=false",
    "credential.interactive=false",
    "i18n.commitEncoding=UTF-8",
    "submodule.recurse=false",
)
FETCH_FLAGS: Final = (
    "--quiet",  # what is left on stderr is a complaint
    "--no-write-fetch-head",  # FETCH_HEAD says what the user fetched last
    "--no-tags",  # they would become refs, and bring objects that nobody asked for
    "--no-prune",  # `fetch.prune` must not delete refs
    "--no-recurse-submodules",  # `fetch.recurseSubmodules` would fetch the user's submodules, too
    "--no-auto-maintenance",  # nobody waits for a repository to be packed
    "--refmap=",  # the remote's refspecs must not move refs besides those that are named
)
"""Of every `git fetch` here: it gets what is named, and changes nothing else, whatever the user's configuration says."""
_LOGIN_IN_URL = re.compile(r"(?<=://)[^/@\s'\"]+@")
_SECRET = re.compile(r"(?i)((?:token|password|passwd|secret|key)=)[^&\s'\"]+")
AUTHENTICATION = re.compile(
    r"Authentication failed|could not read (?:Username|Password)|terminal prompts disabled|Permission denied|returned error: 40[13]"
    r"|Permission to \S+ denied|Access denied|Host key verification failed|unable to get password",
    re.IGNORECASE,
)
_SAYS_NOTHING: Final = "Could not read from remote repository"
"""Git's last words after any trouble with ssh or a path, which have been told before."""
_NO_REMOTE = re.compile(r"does not appear to be a git repository|No such remote|[Rr]epository .*not found|does not exist")


class GitFailedError(Exception):
    """A command or a remote that did not do what was asked; `reason` is for people, and holds no credentials."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = redact(reason)[:MAX_REASON_CHARS]


def redact(text: str) -> str:
    """The text on one line, without logins in URLs, values of secret-looking parameters, and anything a terminal would obey."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return _SECRET.sub(r"\1…", _LOGIN_IN_URL.sub("…@", line))


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    stdout: bytes
    stderr: str

    def checked(self, what: str) -> bytes:
        """The output.

        Raises:
            GitFailedError: the exit status is not 0; it says why as briefly as git's own words allow.
        """
        if self.code == 0:
            return self.stdout
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "ssh:"))] or lines[-1:]
        telling = [line.removeprefix("fatal: ") for line in telling if _SAYS_NOTHING not in line] or telling
        words = "; ".join(dict.fromkeys(telling[:3])) or f"git {what} ended with status {self.code}"
        if AUTHENTICATION.search(self.stderr):
            raise GitFailedError(f"the remote asks for credentials that git does not have without a prompt: {words}")
        if _NO_REMOTE.search(self.stderr):
            raise GitFailedError(f"there is no such remote repository: {words}")
        raise GitFailedError(words)


class GitRunner:
    """Runs `git` for one repository.

    Args:
        git_dir: the git common directory.
        work_tree: where relative remote paths start; derived if None.
        remote: whose settings that forbid pushing single branches are overridden.
        timeout_s: limit of one command.
    """

    def __init__(self, git_dir: Path, work_tree: Path | None, remote: str, timeout_s: float) -> None:
        self._git_dir = git_dir.absolute()
        self._work_tree = work_tree
        self._remote = remote
        self._timeout_s = timeout_s
        self._cwd: Path | None = None
        self._ssh: str | None = None

    async def run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        limit: int = MAX_OUTPUT_BYTES,
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Run a command to its end.

        Args:
            arguments: the subcommand and what follows.
            stdin: what it reads; nothing if None.
            limit: bytes of output that are accepted.
            environment: variables besides.

        Raises:
            GitFailedError: git can't be started, took too long or said too much. It has ended, with its children, by then.
        """
        await self.folder()
        return await self._run(arguments, stdin or b"", limit, environment or {})

    async def folder(self) -> Path:
        """Where commands run: what relative remote paths start from.

        Raises:
            GitFailedError: git can't be started.
        """
        if self._cwd is None or not self._cwd.is_dir():  # people remove linked worktrees
            await self._look_around()
        assert self._cwd is not None
        return self._cwd

    async def _look_around(self) -> None:
        """Where the main work tree is, and whether the user has an ssh command of their own."""
        self._cwd = self._git_dir
        outcome = await self._run(("config", "--get-regexp", r"^(core\.(bare|worktree|sshcommand))$"), b"", MAX_OUTPUT_BYTES, {})
        settings: dict[str, str] = {}
        for line in outcome.stdout.decode("utf-8", "replace").splitlines():
            key, _, value = line.partition(" ")
            settings[key.lower()] = value
        if not {"GIT_SSH_COMMAND", "GIT_SSH"} & os.environ.keys() and "core.sshcommand" not in settings:
            self._ssh = "ssh -o BatchMode=yes -o ConnectTimeout=10"
        if self._work_tree is not None and self._work_tree.is_dir():
            self._cwd = self._work_tree
        elif "core.worktree" in settings:
            self._cwd = Path(os.path.normpath(self._git_dir / settings["core.worktree"]))
        elif settings.get("core.bare") != "true" and self._git_dir.name == ".git":
            self._cwd = self._git_dir.parent

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if k not in _DROPPED and not k.startswith("GIT_TRACE")}
        no_answer = _false()
        environment.update(
            LC_ALL="C",
            LANGUAGE="C",
            GIT_TERMINAL_PROMPT="0",
            GIT_ASKPASS=no_answer,
            SSH_ASKPASS=no_answer,
            SSH_ASKPASS_REQUIRE="never",
            GCM_INTERACTIVE="never",
            GIT_OPTIONAL_LOCKS="0",
            GIT_NO_REPLACE_OBJECTS="1",
            GIT_PAGER="cat",
        )
        if self._ssh is not None:
            environment["GIT_SSH_COMMAND"] = self._ssh
        environment.update(extra)
        return environment

    async def serve(self, path: str) -> trio.Process:
        """Start `git receive-pack` in a repository on this machine, as `git push` would; whoever calls this ends it (`end`).

        Args:
            path: of that repository, from where commands run.

        Raises:
            GitFailedError: git can't be started.
        """
        await self.folder()
        environment = {k: v for k, v in self._environment({}).items() if k not in _OF_A_REPOSITORY}
        return await self._open(["git", "receive-pack", path], environment, stderr=subprocess.DEVNULL)

    async def open(self, *arguments: str) -> trio.Process:
        """Start a command that is spoken with; whoever calls this ends it (`end`).

        Args:
            arguments: the subcommand and what follows.

        Raises:
            GitFailedError: git can't be started.
        """
        await self.folder()
        return await self._open(self._command(arguments), self._environment({}), stderr=subprocess.PIPE)

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        settings = [part for setting in (*_SETTINGS, f"remote.{self._remote}.mirror=false") for part in ("-c", setting)]
        return ["git", "--no-pager", f"--git-dir={self._git_dir}", *settings, *arguments]

    async def _open(self, command: list[str], environment: Mapping[str, str], *, stderr: int) -> trio.Process:
        try:
            return await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                cwd=self._cwd,
                env=environment,
            )
        except OSError as error:
            raise GitFailedError(f"git can't be started: {error.strerror or error}") from None

    async def _run(self, arguments: tuple[str, ...], stdin: bytes, limit: int, extra: Mapping[str, str]) -> Outcome:
        process = await self._open(self._command(arguments), self._environment(extra), stderr=subprocess.PIPE)
        try:
            with trio.move_on_after(self._timeout_s) as scope:
                outcome = await _converse(process, stdin, limit)
            if scope.cancelled_caught:
                raise GitFailedError(f"no answer within {self._timeout_s:g} s (git {_subcommand(arguments)})")
            return outcome
        finally:
            await end(process)


def _subcommand(arguments: tuple[str, ...]) -> str:
    """What stands behind `-c key=value`."""
    while len(arguments) > 2 and arguments[0] == "-c":
        arguments = arguments[2:]
    return arguments[0]


@cache
def _false() -> str:
    """A program that answers nothing to whoever asks for a password."""
    return shutil.which("false") or "/bin/false"


async def _converse(process: trio.Process, stdin: bytes, limit: int) -> Outcome:
    """Feed the process, take what it says, and wait for its end.

    Raises:
        GitFailedError: it said more than `limit` bytes.
    """
    output, complaints = bytearray(), bytearray()
    exceeded = False
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    source, out, err = process.stdin, process.stdout, process.stderr

    async def feed() -> None:
        try:
            await source.send_all(stdin)
        except trio.BrokenResourceError:
            pass  # it ended without reading; its exit status tells why
        finally:
            await source.aclose()

    async def listen() -> None:
        nonlocal exceeded
        while chunk := await out.receive_some(_CHUNK):
            output.extend(chunk)
            if len(output) > limit:
                exceeded = True
                nursery.cancel_scope.cancel()

    async def overhear() -> None:
        while chunk := await err.receive_some(_CHUNK):
            add_complaint(complaints, chunk)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        nursery.start_soon(listen)
        nursery.start_soon(overhear)
        await process.wait()
        nursery.cancel_scope.deadline = trio.current_time() + _LINGER_S
    if exceeded:
        raise GitFailedError(f"git said more than {limit} bytes")
    return Outcome(process.returncode or 0, bytes(output), complaints.decode("utf-8", "replace"))


def add_complaint(complaints: bytearray, chunk: bytes) -> None:
    """Keep `MAX_STDERR_BYTES` of all: the end tells what went wrong, the beginning who said so."""
    complaints.extend(chunk)
    if len(complaints) > MAX_STDERR_BYTES:
        del complaints[MAX_STDERR_BYTES // 2 : len(complaints) - MAX_STDERR_BYTES // 2]


async def end(process: trio.Process) -> None:
    """End the process and its children if it still runs, reap it, close the pipes; also when cancelled."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            # Not reaped yet, so the id is still its own; it leads its process group. A remote on this machine runs in that group,
            # too: asked to end, it takes its locks away; killed, it leaves them, and nobody can push any more.
            os.killpg(process.pid, signal.SIGTERM)
            await trio.sleep(_GENTLY_S)
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                await pipe.aclose()
