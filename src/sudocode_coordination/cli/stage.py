"""What `coord demo` plays on: a fresh repository, its clones, their daemons. Everything is gone when it is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from sudocode_coordination.cli.lifecycle import daemon_command, wait_ready
from sudocode_coordination.client.blocking import Client
from sudocode_coordination.errors import CoordinationError
from sudocode_coordination.place import Clone, find_clone

T = TypeVar("T")
POLL_S: Final = 0.02
"""Between two looks at a condition: well under what a person notices."""
GIT_LIMIT_S: Final = 20.0
STOP_LIMIT_S: Final = 15.0
"""For a daemon to leave in order; then it is killed."""
CONFIG: Final = {
    "listen_addresses": ["/ip4/127.0.0.1/tcp/0"],
    "peer_discovery_interval_ms": 1_000,
    "heartbeat_interval_ms": 500,
    "lease_ttl_ms": 4_000,
    "max_lease_ttl_ms": 10_000,
    "gone_grace_ms": 1_000,
}
"""Everything on this machine only, and quicker than in earnest."""


class DemoError(CoordinationError):
    """A step did not hold."""

    code = "demo-failed"


class Actor:
    """One clone with its daemon."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.clone: Clone = find_clone(folder)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: int | None = None
        self._client: Client | None = None

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        """Start the daemon; `wait_active` waits for it."""
        reading, writing = os.pipe()
        log = self.folder.parent / f"{self.name}.log"
        command = daemon_command(self.clone, {"agent_id": self.name, **CONFIG}, "--ready-fd", str(writing))
        try:
            with log.open("ab") as output:
                # A session of its own: Ctrl-C is for the demo, which ends its daemons itself.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(writing,),
                    env=self._environment,
                    cwd="/",
                    start_new_session=True,
                )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._ready = reading

    def wait_active(self, limit_s: float) -> None:
        """Until the daemon is active.

        Raises:
            CoordinationError: it did not start.
        """
        assert self._ready is not None
        try:
            wait_ready(self._ready, self.clone, limit_s)
        finally:
            os.close(self._ready)
            self._ready = None

    @property
    def client(self) -> Client:
        """Talks to the daemon."""
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def new_client(self) -> Client:
        """One more connection."""
        return Client(self.clone, folder=self.folder)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._forget_client()

    def terminate(self) -> None:
        """Ask it to stop, if it runs."""
        self._forget_client()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait_ended(self, limit_s: float) -> bool:
        """Whether it ended by itself; it is gone in any case."""
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None
        if self._process is None:
            return True
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def _forget_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Stage:
    """The folder with the remote and the clones. Use it with `with`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._exit = ExitStack()
        self.actors: list[Actor] = []

    def __enter__(self) -> Stage:
        # /tmp: sockets need short paths, and a temporary folder of one's own may be deep.
        short = "/tmp" if os.access("/tmp", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="coord-demo-", dir=short)).resolve()
        self._exit.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._exit.callback(self._end_all)
        try:
            self._build()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _no_interrupt():
            self._exit.close()

    def _build(self) -> None:
        self.remote = self.folder / "remote.git"
        run = self.folder / "run"
        run.mkdir(mode=0o700)
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith(("GIT_", "COORD_"))}
        self._environment |= {
            "XDG_RUNTIME_DIR": str(run),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_AUTHOR_NAME": "demo",
            "GIT_AUTHOR_EMAIL": "demo@example.invalid",
            "GIT_COMMITTER_NAME": "demo",
            "GIT_COMMITTER_EMAIL": "demo@example.invalid",
        }
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.remote))
        first = self.folder / self._names[0]
        self.git("clone", "--quiet", str(self.remote), str(first))
        (first / "src").mkdir()
        (first / "src" / "auth.py").write_text("def login(): ...\n", "utf-8")
        self.git("-C", str(first), "add", ".")
        self.git("-C", str(first), "commit", "--quiet", "-m", "first")
        self.git("-C", str(first), "push", "--quiet", "origin", "HEAD:main")
        for name in self._names[1:]:
            self.git("clone", "--quiet", str(self.remote), str(self.folder / name))
        self.actors = [Actor(name, self.folder / name, self._environment) for name in self._names]

    def git(self, *arguments: str) -> str:
        """Run git, without the user's configuration.

        Raises:
            DemoError: it failed.
        """
        try:
            done = subprocess.run(
                ["git", *arguments],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=GIT_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DemoError(f"git {arguments[0]}: {error}", hint="`coord doctor` checks git") from None
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise DemoError(f"git {' '.join(arguments[:3])}: {said}", hint="`coord doctor` checks git")
        return done.stdout.decode("utf-8", "replace")

    def stop_all(self) -> list[str]:
        """Stop all daemons in order, at once; the names of those that had to be killed."""
        for actor in self.actors:
            actor.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        return [actor.name for actor in self.actors if not actor.wait_ended(max(0.1, deadline - time.monotonic()))]

    def _end_all(self) -> None:
        for actor in self.actors:
            with suppress(CoordinationError):
                actor.terminate()
        deadline = time.monotonic() + 3.0
        for actor in self.actors:
            actor.wait_ended(max(0.1, deadline - time.monotonic()))


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """A second Ctrl-C while things are put away would leave them behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM leaves like Ctrl-C does: by way of what cleans up."""

    def leave(number: int, frame: object) -> None:
        del frame
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(what: str, condition: Callable[[], T | None], limit_s: float) -> T:
    """The condition's first value that is not None or False.

    Raises:
        DemoError: it took too long.
    """
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value is not None and value is not False:
            return value
        if time.monotonic() > deadline:
            raise DemoError(f"not within {limit_s:g} s: {what}", hint="`coord doctor` may tell why; run the demo again with --json")
        time.sleep(POLL_S)
