"""The page in a browser, with real daemons in two clones: what happens in one shows in the other."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Literal

import pytest
from playwright.sync_api import Page, expect
from tests.e2e.clones import Clone, repository, wait_for
from tests.ui.pages import LIMIT_MS, Asker, Served, Told, chromium, coord_ui, needs_chromium, opened

from sudocode_coordination.client.blocking import Client
from sudocode_coordination.model import Resource

pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=LIMIT_MS)
PATH: Final = 'src/<img src=x onerror="window.pwned=1">.js'
NOTE: Final = "<script>window.pwned=1</script> \u202egnp.exe\x1b[31m"
WORDS: Final = "<b onclick='window.pwned=1'>x</b> & </script><svg/onload=window.pwned=1>"


@contextmanager
def two_clones(*more: str) -> Iterator[tuple[Clone, Clone]]:
    """ann and bob, connected."""
    with repository("ann", "bob") as (ann, bob):
        ann.start(*more)
        bob.start(*more)
        with Client.connect(ann.folder) as one, Client.connect(bob.folder) as other:
            wait_for("they are connected", lambda: all(_sees_another(client) for client in (one, other)), 60)
        yield ann, bob


def _sees_another(client: Client) -> bool:
    return any(peer.connection in ("direct", "relayed") for peer in client.peers())


def row(text: str) -> str:
    return f"#leases tr:has(button.resource:text-is({json.dumps(text)}))"


def test_what_happens_elsewhere_shows_and_what_is_done_here_happens() -> None:
    """The one that always runs. It speaks to the daemons by the client: each `coord` would cost a third of a second."""
    needs_chromium()
    with two_clones() as clones, coord_ui(clones[0]) as served, chromium() as browser, ExitStack() as ending:
        ann, bob = (ending.enter_context(Client.connect(clone.folder)) for clone in clones)
        page, told = opened(browser, served)
        assert "#" not in page.url, "the code is gone from the address bar"
        _a_lease_elsewhere_appears(page, bob)
        _it_can_be_asked_for(page, bob)
        _an_own_one_is_released_once_that_is_confirmed(page, ann)
        _names_stay_text(page, bob)
        _nobody_else_gets_in(served)
        assert told.complaints == []
        assert told.elsewhere == []


def _a_lease_elsewhere_appears(page: Page, bob: Client) -> None:
    assert bob.acquire_lease("src/auth.py", note="token refresh")
    lease = page.locator(row("src/auth.py"))
    expect(lease).to_contain_text("bob")
    expect(lease).to_contain_text("token refresh")
    expect(page.locator("#events")).to_contain_text("bob leased src/auth.py")
    expect(page.get_by_role("button", name="src/auth.py: bob holds it")).to_be_visible()
    expect(page.get_by_role("button", name="bob: holds 1")).to_be_visible()


def _it_can_be_asked_for(page: Page, bob: Client) -> None:
    page.get_by_role("button", name="Ask bob to release src/auth.py").click()
    page.get_by_label("Your words").fill("I only need an import")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#toast")).to_have_text("asked bob")
    (message,) = wait_for("bob has it", bob.messages, 30)
    assert (message.agent_id, message.kind, message.text) == ("ann", "release", "I only need an import")
    bob.send_message("in ten minutes", reply_to=message.message_id)
    expect(page.locator("#messages")).to_contain_text("in ten minutes")
    expect(page).to_have_title("(1) ann · coord")
    page.get_by_role("button", name="Mark the message of bob as read").click()
    expect(page).to_have_title("ann · coord")


def _an_own_one_is_released_once_that_is_confirmed(page: Page, ann: Client) -> None:
    def holders() -> list[str]:
        return [lease.agent_id for lease in ann.leases(everyone=True)]

    tester = Client(ann.clone, agent="ann.tests", folder=ann.folder, connection=ann.connection)
    assert tester.acquire_lease("tests/")
    release = page.get_by_role("button", name="Release tests/")
    release.click()
    page.get_by_role("button", name="Cancel").click()
    assert "ann.tests" in holders()
    release.focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Release", exact=True).click()
    expect(page.locator(row("tests/"))).to_have_count(0)
    assert "ann.tests" not in holders()


def _names_stay_text(page: Page, bob: Client) -> None:
    path = Resource("file", PATH)
    assert bob.acquire_lease(path, note=NOTE)
    bob.set_work(files=[PATH], status=WORDS)
    bob.send_message(WORDS, to="ann", on=path)
    lease = page.locator(row(PATH))
    expect(lease).to_contain_text("<script>window.pwned=1</script> \ufffdgnp.exe\ufffd[31m")
    expect(page.locator("#messages")).to_contain_text(WORDS)
    expect(page.locator("#agents")).to_contain_text(WORDS)
    lease.get_by_role("button", name=PATH, exact=True).click()
    expect(page.locator("#inspect-title")).to_have_text(PATH)
    expect(page.locator("#inspect-history")).to_contain_text("held now")
    page.keyboard.press("Escape")
    page.locator("#filter").fill("<img")
    expect(page.locator("#leases tr")).to_have_count(1)
    page.locator("#filter").fill("")
    assert page.evaluate("window.pwned") is None
    assert page.locator("main script, main img, main b, main svg svg").count() == 0


def _nobody_else_gets_in(served: Served) -> None:
    stranger = Asker(served)
    assert stranger.enter("x" * 43) == 401
    assert stranger.do("release", {"resources": [["file", "src/auth.py"]], "agent": "ann"})[0] == 401
    assert stranger.ask("GET", "/api/live")[0] == 401
    assert stranger.ask("GET", "/", headers={"Host": f"rebound.example:{served.port}"})[0] == 403
    assert stranger.ask("POST", "/api/say", {"text": "x"}, {"Origin": "http://evil.example"})[0] == 403


@pytest.mark.slow
def test_the_daemon_dies_and_comes_back_and_the_page_with_it() -> None:
    needs_chromium()
    with two_clones() as (ann, bob), coord_ui(ann) as served, chromium() as browser:
        page, told = opened(browser, served)
        ann.kill()
        expect(page.locator("#link")).to_have_attribute("data-state", "no-daemon")
        expect(page.locator("#banner")).to_contain_text("coord start")
        ann.start()
        expect(page.locator("#link")).to_have_attribute("data-state", "live")
        expect(page.locator("#banner")).to_be_hidden()
        bob.coord("lease", "src/auth.py")
        expect(page.locator(row("src/auth.py"))).to_contain_text("bob")
        assert told.complaints == []


@pytest.mark.slow
def test_the_server_ends_and_the_page_says_so() -> None:
    needs_chromium()
    with repository("ann") as (ann,), chromium() as browser:
        ann.start()
        with coord_ui(ann) as served:
            page, _ = opened(browser, served)
        expect(page.locator("#link")).to_have_attribute("data-state", "lost")
        expect(page.locator("#banner")).to_contain_text("coord ui does not answer")
        with coord_ui(ann, "--port", str(served.port)) as again:
            expect(page.locator("#banner")).to_contain_text("no session")
            page.goto(again.url)  # the same document: only what stands behind the # has changed
            expect(page.locator("#link")).to_have_attribute("data-state", "live")


@pytest.mark.slow
def test_two_pages_of_two_servers_in_one_browser() -> None:
    needs_chromium()
    with (
        repository("ann") as (ann,),
        coord_ui(ann) as first,
        coord_ui(ann, COORD_AGENT="reviewer") as second,
        chromium() as browser,
    ):
        ann.start()
        context = browser.new_context()
        pages = []
        for served in (first, second):
            page = context.new_page()
            page.goto(served.url)
            page.wait_for_selector('#link[data-state="live"]', timeout=LIMIT_MS)
            pages.append(page)
        for page in pages:
            page.reload()
            page.wait_for_selector('#link[data-state="live"]', timeout=LIMIT_MS)
        expect(pages[0].locator("#me")).to_have_text("ann")
        expect(pages[1].locator("#me")).to_have_text("reviewer")
        pages[1].get_by_role("button", name="Say something").click()
        pages[1].get_by_label("Message", exact=True).fill("looked at it")
        pages[1].get_by_role("button", name="Send").click()
        expect(pages[0].locator("#messages .new")).to_contain_text("looked at it")
        assert [(one["agentId"], one["to"]) for one in ann.json("messages")["messages"]] == [("reviewer", [])]
        more = [context.new_page() for _ in range(4)]
        for page in more:
            page.goto(first.origin)
            page.wait_for_selector('#link[data-state="live"]', timeout=LIMIT_MS)
        expect(pages[0].locator("#link")).to_have_attribute("data-state", "elsewhere")
        pages[0].mouse.click(5, 5)
        expect(pages[0].locator("#link")).to_have_attribute("data-state", "live")
        pages[1].get_by_role("button", name="Sign this browser out").click()
        expect(pages[1].locator("#link")).to_have_attribute("data-state", "elsewhere")
        pages[1].reload()
        expect(pages[1].locator("#banner")).to_contain_text("no session")


@pytest.mark.slow
def test_a_conflict_is_foretold_and_over_when_it_is_gone() -> None:
    needs_chromium()
    with (
        two_clones("--set", "enable_file_diffs=true", "--set", "file_diff_interval_ms=200") as (ann, bob),
        coord_ui(ann) as served,
        chromium() as browser,
    ):
        page, told = opened(browser, served)
        expect(page.locator("#no-conflicts")).to_contain_text("would merge")
        for clone in (ann, bob):
            (clone.folder / "src" / "auth.py").write_text(f"def login(): ...  # {clone.name}\n")
        found = page.locator("#conflicts li")
        expect(found).to_have_count(1)
        expect(found).to_contain_text("src/auth.py would not merge with the changes of bob (line 1 here, line 1 there): contents")
        expect(
            page.get_by_role("button", name="src/auth.py: ann has changed it, bob has changed it; changes here would not")
        ).to_be_visible()
        expect(page.locator("#events")).to_contain_text("conflict of ann: src/auth.py would not merge")
        found.get_by_role("button", name="src/auth.py").click()
        expect(page.locator("#inspect-now")).to_contain_text("bob has changed it on main; not pushed yet")
        page.keyboard.press("Escape")
        bob.git("checkout", "-q", "--", "src/auth.py")
        expect(found).to_have_count(0)
        expect(page.locator("#events")).to_contain_text("no conflict any more of ann: src/auth.py")
        assert told.complaints == []


@pytest.mark.slow
def test_keys_alone_and_what_a_screen_reader_gets() -> None:
    needs_chromium()
    with two_clones() as (ann, bob), coord_ui(ann) as served, chromium() as browser:
        ann.coord("lease", "src/auth.py")
        bob.coord("lease", "src/db/")
        bob.coord("work", "set", "--file", "src/auth.py", "--status", "reading")
        page, told = opened(browser, served, reduced_motion="reduce")
        shared = page.get_by_role("button", name="src/auth.py: ann holds it, bob works on it")
        expect(shared).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("/")
        expect(page.locator("#filter")).to_be_focused()
        page.locator(".node[tabindex='0']").focus()
        expect(page.get_by_role("button", name="ann: holds 1")).to_be_focused()
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("button", name="bob: holds 1, works on 1")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#filter")).to_have_value("bob")
        expect(page.locator("#leases tr")).to_have_count(1)
        page.keyboard.press("Enter")
        expect(page.locator("#filter")).to_have_value("")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Home")
        expect(shared).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#inspect-now")).to_contain_text("ann holds src/auth.py")
        page.keyboard.press("Escape")
        expect(shared).to_be_focused()
        page.get_by_text("The same as a table").click()
        expect(page.locator("#touches")).to_contain_text("src/auth.pybobworks on")
        bob.coord("lease", "docs/")
        expect(page.locator("#events")).to_contain_text("bob leased docs/")
        expect(page.locator("#told")).to_contain_text("bob leased docs/")
        assert told.complaints == []


@pytest.mark.slow
def test_axe_finds_nothing() -> None:
    needs_chromium()
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    def look(page: Page) -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    with two_clones() as (ann, bob), coord_ui(ann) as served, chromium() as browser, ExitStack() as ending:
        ann.coord("lease", "src/auth.py", "--note", "token refresh")
        bob.coord("lease", "src/db/", "--shared")
        for clone, path in ((ann, "src/a.py"), (bob, "src/a.py")):
            clone.coord("work", "set", "--file", path, "--status", "the same")
        bob.coord("say", "--on", "src/auth.py", "hello")
        waiting = ending.enter_context(bob.popen("lease", "src/auth.py", "--wait", "5m"))
        ending.callback(waiting.terminate)
        # Axe comes in as a script, which the page's own policy would refuse.
        page, _ = opened(browser, served, bypass_csp=True, reduced_motion="reduce")
        expect(page.locator("#queue")).to_contain_text("bob")
        expect(page.locator("#conflicts")).to_contain_text("src/a.py")
        page.get_by_text("The same as a table").click()
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme, width in itertools.product(schemes, (1360, 390)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            look(page)
            page.locator("#leases button.resource").first.click()
            expect(page.locator("#inspect-history")).to_contain_text("held now")
            look(page)
            page.keyboard.press("Escape")
            page.get_by_role("button", name="Say something").click()
            look(page)
            page.keyboard.press("Escape")


@pytest.mark.slow
def test_how_live_it_is() -> None:
    """From the answer to the holder to the row in the other clone's page; `-s` shows the figures."""
    needs_chromium()
    with two_clones() as (ann, bob), coord_ui(ann) as served, chromium() as browser:
        page, _ = opened(browser, served)
        page.evaluate(
            """() => {
              window.seen = {};
              new MutationObserver(() => {
                for (const one of document.querySelectorAll("#leases .resource")) window.seen[one.textContent] ??= Date.now();
              }).observe(document.getElementById("leases"), { childList: true, subtree: true });
            }"""
        )
        took: list[float] = []
        with Client.connect(bob.folder) as client:
            for number in range(20):
                name = f"live/{number}.py"
                assert client.acquire_lease(name)
                granted = time.time() * 1000
                page.wait_for_function("name => name in window.seen", arg=name)
                took.append(float(page.evaluate("name => window.seen[name]", name)) - granted)
        # More than can be drawn: a folder stands for the rest.
        expect(page.get_by_role("button", name="live/…, 7 paths: bob holds it")).to_be_visible()
        figures = f"{statistics.median(took):.0f} ms (median), {max(took):.0f} ms (the longest of {len(took)})"
        sys.stdout.write(f"\na lease elsewhere is on the page after {figures}\n")


@pytest.mark.slow
def test_complaints_would_be_noticed() -> None:
    """The listeners that the other tests rely on hear something."""
    needs_chromium()
    with chromium() as browser:
        page = browser.new_page()
        told = Told(page, "http://127.0.0.1:1")
        page.set_content("<script>console.error('told'); throw new Error('thrown')</script><img src='http://127.0.0.1:9/x'>")
        wait_for("it is heard", lambda: page.evaluate("1") and {"told", "thrown"} <= set(told.complaints) and told.elsewhere)
