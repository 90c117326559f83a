"""Write the pictures of `coord ui` that docs/ui.md shows: three clones of a fresh repository, real daemons, and Chromium.

uv run scripts/make_screenshots.py            into docs/images/ (needs chromium)
uv run scripts/make_screenshots.py FOLDER     elsewhere
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parent.parent
IMAGES: Final = ROOT / "docs" / "images"
COORD: Final = Path(sys.executable).parent / "coord"
CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Of Chromium wherever it is driven, in `tests/ui` too: it asks for nothing but the page."""
FOR_PICTURES: Final = (
    "--hide-scrollbars",
    "--disable-lcd-text",  # coloured edges of letters make the files half as large again
)
STORY: Final = (
    ("alice", "work set --issue #42 --file src/auth/tokens.py --file src/auth/session.py --status", "Token refresh"),
    ("bob", "work set --issue #57 --file src/db/query.py --file src/auth/session.py --status", "Faster queries"),
    ("carol", "work set --spec specs/billing.md --file web/invoice.ts --status", "Invoices in the browser"),
    ("alice", "lease src/auth/tokens.py src/auth/session.py --ttl 9m --note", "token refresh"),
    ("alice", "--agent alice.tests lease tests/auth/ --ttl 4m --note", "new cases for it"),
    ("bob", "lease src/db/ --ttl 8m --note", "indexes, one migration"),
    ("bob", "lease issue:#57 --note", "mine until Friday"),
    ("carol", "lease specs/billing.md --shared --ttl 3m --note", "reading it"),
    ("carol", "lease web/invoice.ts --note", "layout"),
    ("bob", "ask src/auth/session.py", "I only need to add an import"),
    ("carol", "say --to alice", "the invoice spec changes how tokens are named"),
    ("alice", "say --to bob", "session.py in ten minutes"),
)
"""Who does what: agent, command, and its last argument."""
FILES: Final = ("src/auth/tokens.py", "src/auth/session.py", "src/db/query.py", "web/invoice.ts", "specs/billing.md")
EDITS: Final = (
    ("alice", "src/auth/tokens.py", 4),
    ("alice", "src/auth/session.py", 12),
    ("bob", "src/auth/session.py", 12),
    ("bob", "src/db/query.py", 3),
    ("carol", "web/invoice.ts", 7),
)
"""Who has changed which line of a file, and not committed it: one line is changed by two."""


def wait_for(what: str, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Until it is so."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {limit_s:g} s: {what}")
        time.sleep(0.1)


class World:
    """Three clones with their daemons."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "COORD_LISTEN_ADDRESSES": "/ip4/127.0.0.1/tcp/0",
            "GIT_AUTHOR_NAME": "Shop",
            "GIT_AUTHOR_EMAIL": "shop@example.invalid",
            "GIT_COMMITTER_NAME": "Shop",
            "GIT_COMMITTER_EMAIL": "shop@example.invalid",
        }

    def run(self, name: str, *command: str) -> str:
        """The output of a command in a clone."""
        done = subprocess.run(
            command, cwd=self._folder / name, env=self._environment, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def popen(self, name: str, *command: str) -> subprocess.Popen[str]:
        """It runs on in a clone."""
        return subprocess.Popen(
            command,
            cwd=self._folder / name,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def coord(self, name: str, *arguments: str) -> str:
        """`coord` in a clone."""
        return self.run(name, str(COORD), *arguments)

    def clone(self, name: str) -> Path:
        """A clone, in a folder of its own so that all are named the same."""
        folder = self._folder / name
        self.run(".", "git", "clone", "-q", "shop.git", f"{name}/shop")
        return folder


@contextmanager
def story() -> Iterator[World]:
    """The clones, and what goes on in them."""
    with tempfile.TemporaryDirectory(prefix="shots-", dir="/tmp") as made:
        world = World(Path(made).resolve())
        names = ("alice", "bob", "carol")
        try:
            world.run(".", "git", "init", "-q", "--bare", "-b", "main", "shop.git")
            world.run(".", "git", "clone", "-q", "shop.git", "first")
            for name in FILES:
                path = Path(made, "first", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"line {number}\n" for number in range(1, 31)), "utf-8")
            world.run("first", "git", "add", ".")
            world.run("first", "git", "commit", "-q", "-m", "first")
            world.run("first", "git", "push", "-q", "origin", "HEAD:main")
            for name in names:
                world.clone(name)
                world.coord(f"{name}/shop", "start", "--agent-id", name, "--set", "enable_file_diffs=true")
            for name in names:
                wait_for("all are connected", partial(_connected, world, name))
            for name, file, line in EDITS:
                path = Path(made, name, "shop", file)
                lines = path.read_text("utf-8").splitlines(keepends=True)
                lines[line - 1] = f"line of {name}\n"
                path.write_text("".join(lines), "utf-8")
            for name, words, last in STORY:
                world.coord(f"{name}/shop", *words.split(), last)
            with ExitStack() as waiting:
                for name, arguments in (
                    ("bob", ("lease", "src/auth/session.py", "--wait", "10m", "--note", "one import")),
                    ("carol", ("lease", "src/auth/session.py", "--wait", "10m", "--note", "token names")),
                ):
                    process = waiting.enter_context(world.popen(f"{name}/shop", str(COORD), *arguments))
                    waiting.callback(process.terminate)
                    wait_for("it waits", partial(_waits, world, name))
                yield world
        finally:
            for name in names:
                subprocess.run([COORD, "stop"], cwd=Path(made) / name / "shop", capture_output=True, check=False, timeout=60)


def _connected(world: World, name: str) -> bool:
    return world.coord(f"{name}/shop", "peers").count(" direct ") >= 2


def _waits(world: World, name: str) -> bool:
    leases = json.loads(world.coord("alice/shop", "leases", "--all", "--json"))["leases"]
    return any(lease["state"] == "pending" and lease["agentId"] == name for lease in leases)


@contextmanager
def page_server(world: World, name: str) -> Iterator[str]:
    """`coord ui` in a clone; its link."""
    process = world.popen(f"{name}/shop", str(COORD), "ui", "--json")
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        process.stdout.close()


def settled(page: Page) -> None:
    """All that the story tells is shown."""
    page.wait_for_selector('#link[data-state="live"]')
    page.locator("#queue .waiters li").nth(1).wait_for()
    page.locator("#leases tr").nth(5).wait_for()
    page.get_by_text("would not merge with the changes").first.wait_for()
    page.evaluate("document.activeElement?.blur()")


def shoot(browser: Browser, url: str, folder: Path) -> None:
    """The pictures: light, dark, and one resource; one session for all, as the link opens one."""
    context = browser.new_context(
        viewport={"width": 1240, "height": 800}, locale="en-GB", color_scheme="light", reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(url)
    settled(page)
    page.screenshot(path=folder / "ui.png")
    page.emulate_media(color_scheme="dark")
    page.locator(".node.agent").nth(2).focus()
    page.locator("section:has(#picture)").screenshot(path=folder / "ui-dark.png")
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="src/auth/session.py", exact=True).first.click()
    page.wait_for_selector("#inspect-history tr")
    page.locator("#inspect").screenshot(path=folder / "ui-inspect.png")
    context.close()


def main(argv: list[str]) -> int:
    """Exit code 0: they are written."""
    if len(argv) > 1 or any(word.startswith("-") for word in argv):
        sys.stderr.write("usage: make_screenshots.py [FOLDER]\n")
        return 2
    if not CHROMIUM:
        sys.stderr.write("no chromium is installed\n")
        return 1
    folder = Path(argv[0]) if argv else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    with story() as world, page_server(world, "alice") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *FOR_PICTURES])
        shoot(browser, url, folder)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
