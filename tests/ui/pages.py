"""`coord ui` in a clone, who asks it over bare HTTP, and Chromium without a window."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from scripts.make_screenshots import CHROMIUM, FLAGS
from tests.e2e.clones import COORD, Clone

LIMIT_MS: Final = 60_000
"""For what a page shows, on a machine that is busy."""


@dataclass(frozen=True)
class Served:
    """A running `coord ui`."""

    process: subprocess.Popen[str]
    url: str
    """With the one-time code."""

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def code(self) -> str:
        return urlsplit(self.url).fragment

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def coord_ui(clone: Clone, *arguments: str, **environment: str) -> Iterator[Served]:
    """It runs for as long as the block, and ends at Ctrl-C with exit code 0 and nothing to say."""
    process = subprocess.Popen(
        [COORD, "ui", "--json", *arguments],
        cwd=clone.folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Served(process, str(json.loads(process.stdout.readline())["url"]))
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


class Asker:
    """A program that speaks HTTP to the page's server."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.cookie = ""
        self.key = ""

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str | None] | None = None, host: str = "127.0.0.1"
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body. `headers` replace those of a well-behaved page; None leaves one out."""
        sent: dict[str, str | None] = {
            "Host": f"127.0.0.1:{self.served.port}",
            "Origin": self.served.origin if method == "POST" else None,
            "Content-Type": "application/json" if method == "POST" else None,
            "Cookie": self.cookie or None,
            "X-Coord-Key": self.key or None,
            **(headers or {}),
        }
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(host, self.served.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if method == "POST":
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data or None)
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def enter(self, code: str | None = None) -> int:
        """Trade the code for a session; the status."""
        status, headers, body = self.ask("POST", "/api/enter", {"code": code or self.served.code})
        if status == 200:
            self.cookie = headers["set-cookie"].partition(";")[0]
            self.key = json.loads(body)["key"]
        return status

    def do(self, name: str, body: object) -> tuple[int, Any]:
        """An action; status and document."""
        status, _, answer = self.ask("POST", f"/api/{name}", body)
        return status, json.loads(answer) if answer else None

    @contextmanager
    def live(self) -> Iterator[Iterator[dict[str, Any]]]:
        """What the server tells, document by document."""
        connection = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=60)
        connection.request("GET", "/api/live", headers={"Cookie": self.cookie, "X-Coord-Key": self.key})
        answer = connection.getresponse()
        try:
            assert answer.status == 200, answer.read()
            yield (json.loads(line) for line in answer)
        finally:
            answer.close()
            connection.close()


def needs_chromium() -> None:
    """Skip where there is no browser; in CI, where it belongs to what is installed, that is a failure."""
    if not CHROMIUM:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing, which .ci/run installs")
        pytest.skip("no chromium here (apt-get install chromium): the page is not driven")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile of its own."""
    needs_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=LIMIT_MS)
        try:
            yield browser
        finally:
            browser.close()


class Told:
    """What a page complained of: errors of its scripts, refused resources, requests that left the machine."""

    def __init__(self, page: Page, origin: str) -> None:
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda asked: None if asked.url.startswith(origin + "/") else self.elsewhere.append(asked.url))


def opened(browser: Browser, served: Served, **options: Any) -> tuple[Page, Told]:
    """The page, live."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(LIMIT_MS)
    told = Told(page, served.origin)
    page.goto(served.url)
    page.wait_for_selector('#link[data-state="live"]')
    return page, told
