"""What holds for all tests: a git of their own, short folders for sockets, no process left behind, no dice in CI."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import hypothesis
import psutil
import pytest
from tests.warm.starting import Warm

RUN_MARK: Final = "SUDOCODE_TEST_RUN"
"""In the environment of every process that tests start, detached ones too: how leaks are found."""
LEAVING_S: Final = 5.0
"""How long processes that are on their way out may take at the end of the run."""

GIT_CONFIG: Final = """\
[user]
    name = Test
    email = test@example.invalid
[init]
    defaultBranch = main
[safe]
    directory = *
[protocol "file"]
    allow = always
[advice]
    detachedHead = false
[gc]
    auto = 0
    autoDetach = false
[maintenance]
    auto = false
[commit]
    gpgSign = false
"""

hypothesis.settings.register_profile("dev", deadline=None, database=None)
hypothesis.settings.register_profile("ci", deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

_run = uuid.uuid4().hex
_root = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp"))
_leaks: list[str] = []


def _isolate() -> None:
    """One environment for this process and all below it, set before any test module is imported."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "COORD_", "SSH_ASKPASS")):
            del os.environ[name]
    # Started in the background by a script, this process ignores interrupts, and would hand that on to those that it interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Hundreds of processes below this one would compile libp2p, each for itself.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    home = _root / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(GIT_CONFIG, "utf-8")
    runtime = _root / "run"
    runtime.mkdir(mode=0o700)
    os.environ.update(
        {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "XDG_STATE_HOME": str(home / ".state"),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "XDG_RUNTIME_DIR": str(runtime),
            "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "NO_COLOR": "1",
            "PYTHONFAULTHANDLER": "1",
            RUN_MARK: _run,
        }
    )


_isolate()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="write the screens of tests/views/snapshots anew")


def _ours() -> list[psutil.Process]:
    """Every process but this one that carries this run's mark."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(RUN_MARK) == _run and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone meanwhile, or somebody else's
    return found


def pytest_testnodedown(node: Any) -> None:
    """What a worker found left over, the run has to tell."""
    _leaks.extend(getattr(node, "workeroutput", {}).get("leaks", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that is left over fails the run, and is ended."""
    _, alive = psutil.wait_procs(_ours(), timeout=LEAVING_S)
    for process in alive:
        try:
            by = process.environ().get("PYTEST_CURRENT_TEST", "collection")
            _leaks.append(f"left running: pid {process.pid}, started by {by}: {' '.join(process.cmdline())}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = _leaks
    if _leaks and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    shutil.rmtree(_root, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what leaked."""
    for leak in _leaks:
        terminalreporter.write_line(leak, red=True)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """An empty folder with a path short enough for Unix sockets in it (they hold about 100 bytes)."""
    folder = Path(tempfile.mkdtemp(dir=_root))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """What daemons can be forked from."""
    folder = Path(tempfile.mkdtemp(dir=_root))
    with Warm(folder) as process:
        yield process


@pytest.fixture(scope="module")
def warm_daemons(warm: Warm) -> Iterator[None]:
    """For modules whose tests are not about a daemon's start or process: they start warm."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in warm.environment().items():
            patch.setenv(name, value)
        yield
