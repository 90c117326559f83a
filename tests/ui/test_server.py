"""`coord ui` without a browser: who gets in, what every answer says, and where no secret is."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final, cast

import anyio
import psutil
import pytest
from tests.docs.blocks import ROOT
from tests.e2e.clones import COORD, Clone, repository, wait_for
from tests.ui.pages import Asker, coord_ui

from sudocode_coordination.api.requests import Foretelling
from sudocode_coordination.cli.parser import build_parser
from sudocode_coordination.cli.run import command
from sudocode_coordination.cli.ui import ui
from sudocode_coordination.client.aio import AsyncClient
from sudocode_coordination.errors import CoordinationError, NoDaemonError, UsageError
from sudocode_coordination.views.web import actions, feed
from sudocode_coordination.views.web.app import MAX_STREAMS, _on_enter, page_files

LINK: Final = re.compile(r"http://127\.0\.0\.1:(\d+)/#([\w-]{43})")
POLICY: Final = "default-src 'self'"


def test_wrong_hosts_origins_and_tokens_are_refused() -> None:
    with repository("ann") as (ann,), coord_ui(ann) as served:
        page, other = Asker(served), Asker(served)
        # Without a session there is the page, which is the same for everybody, and nothing else.
        for path in ("/", *(name for name in page_files() if name != "/")):
            status, answered, _ = page.ask("GET", path)
            assert (status, answered["cache-control"]) == (200, "no-store")
            assert answered["content-security-policy"].startswith(POLICY)
            assert (answered["x-content-type-options"], answered["referrer-policy"]) == ("nosniff", "same-origin")
        for path in ("/api/live", "/api/say", "/assets/../door.py", "/assets/%2e%2e/door.py", "/assets/nothing.js", "//"):
            assert page.ask("GET", path)[0] == 401
        assert page.ask("POST", "/", {})[0] == 405
        assert page.ask("POST", "/api/enter", b"\xff")[0] == 400
        # What a page of another origin, or a name that leads to 127.0.0.1, would send.
        code = {"code": served.code}
        wrong: tuple[dict[str, str | None], ...] = (
            {"Host": f"rebound.example:{served.port}"},
            {"Host": "127.0.0.1"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": None},
            {"Origin": f"http://127.0.0.1:{served.port + 1}"},
            {"Sec-Fetch-Site": "cross-site"},
        )
        for headers in wrong:
            status, answered, body = page.ask("POST", "/api/enter", code, headers)
            assert (status, json.loads(body)["error"]["code"]) == (403, "refused"), headers
            assert "set-cookie" not in answered
        assert page.enter() == 200, "none of them has used up the code"
        assert page.do("history", {"resource": ["file", "a"]})[0] == 503
        for cookie, key in ((page.cookie, ""), ("", page.key), (page.cookie, "x" * 43)):
            other.cookie, other.key = cookie, key
            assert other.do("history", {"resource": ["file", "a"]})[0] == 401
        assert page.ask("POST", "/api/say", {"text": "x"}, {"Content-Type": "text/plain"})[0] == 415
        status, document = page.do("say", {"text": ""})
        assert (status, document["error"]["code"]) == (503, "no-daemon"), "there is none yet"
        assert page.do("stop", {})[0] == 404
        # Somebody has seen the link: whoever they are, they are out, and so is the first one.
        assert other.enter() == 401
        assert page.do("history", {"resource": ["file", "a"]})[0] == 401


def test_without_a_daemon_it_says_so_and_old_pages_of_a_browser_make_room() -> None:
    with repository("ann") as (ann,), coord_ui(ann) as served:
        page = Asker(served)
        assert page.enter() == 200
        with page.live() as first:
            assert next(first) == {"kind": "beat"}
            told = next(first)
            assert (told["kind"], told["daemon"]) == ("state", False)
            assert "coord start" in told["hint"]
            streams = [page.live() for _ in range(MAX_STREAMS)]
            for stream in streams:
                assert next(stream.__enter__())["kind"] == "beat"
            assert any(document["kind"] == "closed" for document in first)
            assert page.do("leave", {}) == (204, None)
            for stream in streams:
                stream.__exit__(None, None, None)
        assert page.do("history", {"resource": ["file", "a"]})[0] == 401


def test_no_secret_is_on_a_command_line_or_in_an_environment(tmp_path: Path) -> None:
    """The browser gets a code of its own, good once, for a minute; the one that is shown is another."""
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"open({str(seen)!r} + '.new', 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
        f"os.rename({str(seen)!r} + '.new', {str(seen)!r})\n"
    )
    browser.chmod(0o755)
    with repository("ann") as (ann,):
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            [COORD, "ui"],
            cwd=ann.folder,
            env={**os.environ, "BROWSER": str(browser)},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            preexec_fn=lambda: _own_terminal(terminal),
        )
        os.close(terminal)
        try:
            shown = _read_until(controller, "Ctrl-C ends it\r\n")
            wait_for("the browser was started", seen.exists, 30)
            arguments, environment = json.loads(seen.read_text())
            ((port, opened),) = LINK.findall(" ".join(arguments))
            ((_, printed),) = LINK.findall(shown)
            assert opened != printed
            assert not any(code in json.dumps(environment) for code in (opened, printed))
            mine = psutil.Process(process.pid)
            assert not LINK.search(" ".join([*mine.cmdline(), *mine.environ().values()]))
            os.write(controller, b"\n")
            ((_, another),) = LINK.findall(_read_until(controller, "\r\nopen ", "\r\n"))
            assert another not in (opened, printed)
            assert int(port) == mine.net_connections()[0].laddr.port
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            os.close(controller)


def _own_terminal(terminal: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _read_until(controller: int, *texts: str) -> str:
    """What the terminal shows, until these have come, one after the other."""
    found, at = "", 0
    for text in texts:
        while text not in found[at:]:
            found += os.read(controller, 4_096).decode()
        at = found.index(text, at) + len(text)
    return found


def test_a_port_that_is_taken_and_a_folder_without_a_repository(tmp_path: Path) -> None:
    with repository("ann") as (ann,), coord_ui(ann) as served:
        failed = ann.json("ui", "--port", str(served.port), expect=1)
        assert failed["error"]["code"] == "network"
        assert "--port" in failed["error"]["hint"]
    assert Clone(tmp_path).json("ui", expect=1)["error"]["code"] == "not-a-repository"


def test_the_command_is_there_and_takes_ports() -> None:
    assert command("ui") is ui
    parser = build_parser()
    args = parser.parse_args(["ui", "--port", "8123", "--no-open"])
    assert (args.run, args.port, args.no_open) == ("ui", 8123, True)
    for wrong in ("-1", "65536", "http", "8_0"):
        with pytest.raises(UsageError):
            parser.parse_args(["ui", f"--port={wrong}"])


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("say", b"{}"),
        ("say", b'{"text": 1}'),
        ("say", b'{"text": "x", "agent": "alice"}'),
        ("say", b'{"text": "' + b"x" * 1_001 + b'"}'),
        ("release", b'{"resources": [], "agent": "a"}'),
        ("release", b'{"resources": [["disk", "a"]], "agent": "a"}'),
        ("read", b'{"messageIds": []}'),
        ("history", b"[" * 5_000),
        ("history", b"\xff"),
    ],
)
def test_an_action_takes_what_it_takes(name: str, body: bytes) -> None:
    with pytest.raises(UsageError, match=f"than {name} takes"):
        anyio.run(actions.act, cast(AsyncClient, None), name, body, "/")


def test_a_page_that_takes_nothing_keeps_one_state_and_so_many_events() -> None:
    mailbox = feed.Mailbox()
    for number in range(feed.MAX_WAITING_EVENTS + 10):
        mailbox.event(b"e%d" % number)
        mailbox.replace(b"s%d" % number)
    mailbox.close()

    async def read() -> list[bytes]:
        return [line async for line in mailbox.lines()]

    lines = anyio.run(read)
    assert lines == [b'{"kind":"beat"}\n', b'{"kind":"closed"}\n'], "closed: nothing more is told"
    assert len(mailbox.events) == feed.MAX_WAITING_EVENTS
    assert (mailbox.events[-1], mailbox.state) == (b"e509", b"s509")


def test_a_daemon_that_foretells_nothing_yet_is_no_daemon_that_is_gone() -> None:
    class Older:
        def __init__(self, error: CoordinationError) -> None:
            self.error = error

        async def conflicts(self) -> object:
            raise self.error

    def asked(error: CoordinationError) -> object:
        return anyio.run(feed._foretelling, cast(AsyncClient, Older(error)))

    assert asked(CoordinationError("unknown method conflicts")) == Foretelling(enabled=False)
    with pytest.raises(NoDaemonError):
        asked(NoDaemonError("it has ended"))


def test_every_file_of_the_page_is_known_by_its_type_and_none_names_another_host() -> None:
    files = page_files()
    assert {"/", "/assets/app.js", "/assets/style.css", "/assets/icon.svg"} <= set(files)
    for path, (_, content) in files.items():
        text = content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.[a-z]|url\(|@import|\beval\b|innerHTML|insertAdjacent|document\.write", text), path
        assert not re.search(r"<script(?! type=\"module\" src=\"/assets/app.js\">)|<style| style=| on[a-z]+=\"", text), path


@pytest.mark.slow
def test_the_wheel_has_the_page(tmp_path: Path) -> None:
    """It is package data, which a build may forget. Needs uv and an index, for what builds it."""
    if shutil.which("uv") is None:
        pytest.skip("no uv here: the wheel is not built")
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT], check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {Path(name).name: archive.read(name) for name in archive.namelist() if "/views/web/assets/" in name}
    written = {"index.html" if path == "/" else Path(path).name: content for path, (_, content) in page_files().items()}
    assert held == written


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "not-its-own"])
def test_a_terminal_that_is_gone_or_of_another_session_only_ends_new_links(monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        if gone:
            os.close(ours)
        else:
            os.write(ours, b"\n")
        pressed: list[None] = []
        anyio.run(_on_enter, lambda: pressed.append(None))
        assert not pressed
    if not gone:
        os.close(ours)
