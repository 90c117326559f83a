"""Real git remotes and clones for tests, and a `GitCli` in a trio thread of its own that plain test code can drive."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Final, Protocol

import psutil
import trio

from sudocode_coordination.adapters.git import GitCli
from sudocode_coordination.core.io import BranchPublished, BranchPublishFailed, BranchRead, BranchReadFailed, Input

BRANCH: Final = "coordination"
PEERS: Final = ".sudocode/coordination/peers"
PATIENCE_S: Final = 60.0
"""How long a test waits for an answer that has to come."""


def git(folder: Path, *arguments: str, stdin: bytes | None = None, environment: dict[str, str] | None = None) -> str:
    """Run git in a folder; its output without the last newline."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, input=stdin, capture_output=True, env={**os.environ, **(environment or {})}, check=False
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
    return done.stdout.decode().rstrip("\n")


def make_remote(folder: Path, name: str = "origin.git", *, commits: int = 1) -> Path:
    """A bare repository with a few commits on main."""
    bare = folder / name
    git(folder, "init", "-q", "--bare", str(bare))
    if commits:
        seed = folder / f"{name}.seed"
        git(folder, "clone", "-q", str(bare), str(seed))
        for n in range(commits):
            (seed / "file.txt").write_text(f"{n}\n", "utf-8")
            git(seed, "add", "file.txt")
            git(seed, "commit", "-q", "-m", f"commit {n}")
        git(seed, "push", "-q", "origin", "HEAD:refs/heads/main")
    return bare


def files_on(bare: Path) -> dict[str, bytes]:
    """The files under `peers/` on the branch in a bare repository."""
    listing = git(bare, "for-each-ref", f"refs/heads/{BRANCH}")
    if not listing:
        return {}
    names = git(bare, "ls-tree", "--name-only", "-z", f"refs/heads/{BRANCH}", f"{PEERS}/").split("\0")
    return {
        Path(name).name: subprocess.run(
            ["git", "cat-file", "blob", f"refs/heads/{BRANCH}:{name}"], cwd=bare, check=True, capture_output=True
        ).stdout
        for name in names
        if name
    }


def paths_on(bare: Path) -> list[str]:
    """All paths on the branch, with mode and id."""
    return git(bare, "ls-tree", "-r", "-z", f"refs/heads/{BRANCH}").rstrip("\0").split("\0")


def write_branch(bare: Path, entries: dict[str, tuple[str, bytes]], *, keep: bool = False) -> str:
    """Set the branch, as somebody with other tools would: path -> (mode, content, or an object's id for gitlinks)."""
    index = {"GIT_INDEX_FILE": str(bare / "index.test")}
    if keep:
        git(bare, "read-tree", f"refs/heads/{BRANCH}", environment=index)
    else:
        git(bare, "read-tree", "--empty", environment=index)
    for path, (mode, content) in entries.items():
        sha = content.decode() if mode == "160000" else git(bare, "hash-object", "-w", "--stdin", stdin=content)
        git(bare, "update-index", "-z", "--index-info", stdin=f"{mode} {sha}\t{path}\0".encode(), environment=index)
    tree = git(bare, "write-tree", environment=index)
    parent = ["-p", f"refs/heads/{BRANCH}"] if keep else []
    commit = git(bare, "commit-tree", *parent, "-m", "by hand", tree)
    git(bare, "update-ref", f"refs/heads/{BRANCH}", commit)
    return commit


class Handle:
    """One `GitCli` and what it has delivered."""

    def __init__(self, loop: Loop, git_dir: Path, **options: Any) -> None:
        self.got: list[Input] = []
        self.loop = loop
        self.tickets = 0
        self.cli = GitCli(
            git_dir,
            options.pop("remote", "origin"),
            options.pop("branch", BRANCH),
            self.got.append,
            **{"random": Random(os.urandom(8)), **options},
        )
        self.scope: trio.CancelScope = loop.start(self.cli)

    def wait(self, found: Callable[[Input], bool]) -> Input:
        """The first delivered input that fits; it is taken out."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for given in list(self.got):
                if found(given):
                    self.got.remove(given)
                    return given
            time.sleep(0.005)  # a poll; the deadline above is the limit
        raise AssertionError(f"nothing came: {self.got}")

    def read(self) -> BranchRead | BranchReadFailed:
        self.loop.call(self.cli.read_branch)
        given = self.wait(lambda i: isinstance(i, BranchRead | BranchReadFailed))
        assert isinstance(given, BranchRead | BranchReadFailed)
        return given

    def start_publish(
        self, changes: dict[str, bytes | None], *, beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}), final: bool = False
    ) -> int:
        self.tickets += 1
        ticket = self.tickets
        self.loop.call(lambda: self.cli.publish(ticket, changes, beside=beside, final=final))
        return ticket

    def outcome(self, ticket: int) -> BranchPublished | BranchPublishFailed:
        given = self.wait(lambda i: isinstance(i, BranchPublished | BranchPublishFailed) and i.ticket == ticket)
        assert isinstance(given, BranchPublished | BranchPublishFailed)
        return given

    def publish(
        self, changes: dict[str, bytes | None], *, beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}), final: bool = False
    ) -> BranchPublished | BranchPublishFailed:
        return self.outcome(self.start_publish(changes, beside=beside, final=final))


class Worker(Protocol):
    """What a port's task is started by."""

    async def run(self) -> None: ...


class Loop:
    """A trio run in a thread."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: trio.run(self._main))
        self._thread.start()
        self._ready.wait(PATIENCE_S)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as self._nursery:
            self._ready.set()
            await self._stop.wait()
            self._nursery.cancel_scope.cancel()

    def call(self, action: Callable[[], object]) -> None:
        """Run it in the trio thread."""
        trio.from_thread.run_sync(action, trio_token=self._token)

    def start(self, cli: Worker) -> trio.CancelScope:
        """Run a worker; the scope ends it."""
        scope = trio.CancelScope()

        async def work() -> None:
            with scope:
                await cli.run()

        self.call(lambda: self._nursery.start_soon(work))
        return scope

    def close(self) -> None:
        self.call(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@contextmanager
def running_loop() -> Iterator[Loop]:
    """A loop for the time of a test."""
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


class _GitHandler(BaseHTTPRequestHandler):
    """`git http-backend` as a CGI program; with a password if the server has one."""

    protocol_version = "HTTP/1.0"

    def log_message(self, format: str, *args: object) -> None:
        """Not on the test's output."""

    def _serve(self) -> None:
        server = self.server
        assert isinstance(server, GitHttpServer)
        said = self.headers.get("Authorization") or ""
        if server.locked or (server.login and said != f"Basic {b64encode(server.login.encode()).decode()}"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type") or "",
            "CONTENT_LENGTH": str(length),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
            "REMOTE_USER": "tester",
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=self.rfile.read(length), env=environment, capture_output=True, check=False
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        status = 200
        headers = []
        for line in head.decode().split("\r\n"):
            key, _, value = line.partition(": ")
            if key == "Status":
                status = int(value.split()[0])
            elif key:
                headers.append((key, value))
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = _serve  # noqa: N815
    do_POST = _serve  # noqa: N815


class GitHttpServer(ThreadingHTTPServer):
    """Serves the repositories of a folder on loopback."""

    daemon_threads = True
    locked = False
    """Nobody comes in, whatever they say."""
    login = ""
    """`name:password`; anybody comes in if empty."""

    def __init__(self, root: Path) -> None:
        self.root = root
        super().__init__(("127.0.0.1", 0), _GitHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def http_server(root: Path) -> Iterator[GitHttpServer]:
    """Serve a folder for the time of a test."""
    with GitHttpServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(PATIENCE_S)


def fake_ssh(folder: Path) -> str:
    """A command that stands for ssh: it runs the remote's command here."""
    script = folder / "fake ssh"
    options = 'while [ "${1#-}" != "$1" ]; do case "$1" in -[op]) shift;; esac; shift; done'
    script.write_text(f'#!/bin/sh\n{options}\nshift\nexec sh -c "$*"\n', "utf-8")
    script.chmod(0o755)
    return f"'{script}'"


def descendants() -> set[psutil.Process]:
    """Of this process, but for what daemons of other tests are forked from (`tests/warm`), which lasts as long as the run."""
    mine = psutil.Process()
    found = set(mine.children(recursive=True))
    for child in mine.children():
        with suppress(psutil.Error):
            if "tests.warm" in child.cmdline():
                found -= {child, *child.children(recursive=True)}
    return found


def children() -> list[psutil.Process]:
    return [c for c in descendants() if c.status() != psutil.STATUS_ZOMBIE]


def until(found: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < end, what
        time.sleep(0.01)  # a poll; the deadline above is the limit


def nobody_left() -> bool:
    end = time.monotonic() + 10
    while children() and time.monotonic() < end:
        time.sleep(0.01)  # a poll; the deadline above is the limit
    return not descendants()
