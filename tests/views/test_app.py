"""The view without a daemon behind it: what is drawn where, what keys do, and that nothing jumps."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.views.scene import LEASES, NOW, event, lease, message, status
from textual.geometry import Region
from textual.pilot import Pilot

from sudocode_coordination.errors import DaemonBusyError
from sudocode_coordination.model import Now
from sudocode_coordination.place import Clone, find_clone
from sudocode_coordination.views import acts, bars, signals
from sudocode_coordination.views.app import Watch
from sudocode_coordination.views.dialogs import HELP, InFull
from sudocode_coordination.views.lines import Listing, fitted, widths, wrapped
from sudocode_coordination.views.rows import TABS, Cell, Column, Row
from sudocode_coordination.views.state import Filter, Picture


class Still(Watch):
    """Follows no daemon; the time is what the test says."""

    def __init__(self, clone: Clone) -> None:
        self.time = NOW
        super().__init__(clone, None, lambda: self.time)

    def _follow(self) -> None:
        self.picture.live(NOW)
        self.picture.took(status(), NOW)

    @property
    def shown(self) -> list[str]:
        """The lines of the screen."""
        strips = self.screen._compositor.render_strips()
        return [strip.text.ljust(self.size.width) for strip in strips]

    def pass_time(self, ms: int) -> None:
        self.time = Now(self.time.instant + ms, self.time.wall_ms + ms)
        self._tick()


Story = Callable[[Still, Pilot[int]], Awaitable[None]]


def play(story: Story, size: tuple[int, int] = (80, 24)) -> Still:
    app = Still(find_clone())

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(app, pilot)

    asyncio.run(run())
    return app


async def see(app: Still, pilot: Pilot[int], what: str | Callable[[str], bool]) -> list[str]:
    """The lines of the screen, once it shows that."""
    for _ in range(500):
        shown = app.shown
        text = "\n".join(shown)
        if (what in text) if isinstance(what, str) else what(text):
            return shown
        await pilot.pause(0.01)
    raise AssertionError(f"{what!r} is not shown:\n{text}")


def test_it_fits_on_80_columns() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        shown = await see(app, pilot, "issue:#42")
        assert shown[0].startswith("coord watch  ")
        assert shown[0].endswith("live")
        assert {len(line) for line in shown} == {80}
        assert shown[1].rstrip() == "[1 Leases 4] 2 Work 2 3 Agents 3 4 Queue 1 5 Conflicts 0 6 Messages 0 7 Events 0"
        assert shown[3].split() == ["›", "docs/", "bob", "provisional,", "shared", "30s", "-", "0"]
        assert "q quit" in shown[23]
        for number, tab in enumerate(TABS, 1):
            await pilot.press(str(number))
            shown = await see(app, pilot, f"[{number} {tab.title}")
            assert {len(line) for line in shown} == {80}

    play(story)


def test_there_is_more_on_a_wide_terminal() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        app.picture.heard(event("work-started", "bob", 1), NOW)
        app._changed()
        shown = await see(app, pilot, "work-started")
        assert "NOTE" in shown[2]
        assert any("Lease: docs/" in line for line in shown)
        await pilot.press("down")
        shown = await see(app, pilot, "Lease: src/api.py")
        await pilot.resize_terminal(80, 24)
        shown = await see(app, pilot, lambda text: "Lease:" not in text)
        assert {len(line) for line in shown} == {80}
        for size in ((20, 5), (1, 1), (300, 3), (80, 24)):  # no size is too small
            await pilot.resize_terminal(*size)
            await pilot.press("end", "enter", "end", "escape", "home")
        await see(app, pilot, "Enter inspect")

    play(story, (140, 40))


def test_time_left_counts_down_by_itself_and_only_that_is_drawn() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        await see(app, pilot, "30s")
        drawn: list[int] = []
        listing = app.query_one("#list", Listing)

        def refresh(*regions: Region, **_: Any) -> Listing:
            drawn.extend(region.area for region in regions)
            return listing

        listing.refresh = refresh  # type: ignore[method-assign]
        app.pass_time(1_000)
        assert [row.cells[3].shown(app.time).text for row in listing._rows] == ["29s", "3m59s", "3m59s", "3m59s"]
        # Of four rows of eighty columns.
        assert 4 <= sum(drawn) <= 4 * 9
        drawn.clear()
        app.pass_time(0)
        assert drawn == []

    play(story)


def test_the_chosen_row_stays_while_others_come_and_go() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        listing = app.query_one("#list", Listing)
        await see(app, pilot, "issue:#42")
        await pilot.press("down", "down")
        assert listing.chosen is not None
        assert listing.chosen.key == LEASES[1].claim_id
        app.picture.took(status(leases=(lease(9, "eve", "a.py"), lease(10, "eve", "b.py"), *LEASES)), app.time)
        app._draw()
        assert listing.chosen.key == LEASES[1].claim_id
        await pilot.press("2", "down", "1")  # another list, and back
        assert listing.chosen.key == LEASES[1].claim_id
        # It ends: what takes its place is chosen, and at the end of the list the last one.
        app.picture.took(status(leases=(*LEASES[:1], *LEASES[2:])), app.time)
        app._draw()
        assert listing.chosen.key == LEASES[3].claim_id
        app.picture.took(status(leases=()), app.time)
        app._draw()
        assert "nobody holds a lease" in app.shown[3]
        await pilot.press("down", "enter", "r", "a", "m", "x")
        await see(app, pilot, "nothing is chosen")

    play(story)


def test_a_long_list_scrolls() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        app.picture.took(status(leases=tuple(lease(n, "bob", f"f{n:03}.py") for n in range(100))), app.time)
        app._draw()
        await see(app, pilot, "f000.py")
        await pilot.press("end")
        shown = await see(app, pilot, "f099.py")
        assert "RESOURCE" in shown[2]
        assert [line[:8] for line in shown[3:22]] == [f"{'›' if n == 99 else ' '} f{n:03}.p" for n in range(81, 100)]
        await pilot.press("pageup", "up")
        assert app.query_one("#list", Listing).chosen.key.endswith(".80")  # type: ignore[union-attr]
        await pilot.press("home")
        await see(app, pilot, "f000.py")

    play(story)


def test_filter() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        await see(app, pilot, "issue:#42")
        await pilot.press("slash", *"tokXY", "backspace", "backspace", "left", "end", *"en")
        shown = await see(app, pilot, "filter: token")
        assert [line.split()[0] for line in shown[3:22] if line.strip()] == ["›", "filter:"]
        await pilot.press("enter")
        shown = await see(app, pilot, "(1 shown; Esc: all)")
        assert not any("docs/" in line for line in shown)
        await pilot.press("2")
        await see(app, pilot, "Token refresh")
        await pilot.press("escape", "1")
        await see(app, pilot, "docs/")
        await pilot.press("slash", *"zzz", "enter")
        await see(app, pilot, "nothing here has it")

    play(story)


def test_letters_that_are_written_are_no_keys() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        await see(app, pilot, "issue:#42")
        await pilot.press("M", *"q1?rx", "escape")
        assert app.is_running
        assert app._tab is TABS[0]
        await pilot.press("end", "up", "up", "r")  # src/api.py, an own lease
        shown = await see(app, pilot, "Release src/api.py? (y/n)")
        assert any("src/api.py" in line for line in shown)
        await pilot.press("q", "2", "slash")
        assert app.is_running
        assert app._tab is TABS[0]
        await pilot.press("n")
        await pilot.pause()
        assert not any("Release" in line for line in app.shown)
        await pilot.press("q")
        await pilot.pause()

    assert play(story).return_code == 0


ACTS = (
    (("1", "home", "r"), "error: bob holds it, in another clone (a asks bob to release it, m sends a mess"),
    (("1", "home", "down", "a"), "error: that is a lease of your own (r releases it)"),
    (("2", "r"), "error: only leases can be released"),
    (("2", "a"), "error: a lease can be asked for"),
    (("2", "home", "m"), "that is about this agent itself"),
    (("x",), "only messages can be marked as read (6)"),
    (("1", "home", "a"), "ask bob for it: "),
    (("1", "home", "m"), "to bob: "),
    (("4", "r"), "Stop waiting for src/auth.py for carol, an agent of this clone? (y/n)"),
    (("4", "a"), "ask its holder for it: "),
    (("1", "home", "m", "h", "i", "enter"), "error: no daemon runs in "),
)


def test_what_can_be_done_with_what() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        await see(app, pilot, "issue:#42")
        for keys, told in ACTS:
            await pilot.press(*keys)
            await see(app, pilot, told[:78])
            await pilot.press("escape")

    play(story)


def test_one_thing_in_full_stays_up_to_date() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        await see(app, pilot, "issue:#42")
        await pilot.press("home", "enter")
        shown = await see(app, pilot, "Lease: docs/")
        assert "30s of 5m" in "\n".join(shown)
        await see(app, pilot, "unknown     no daemon runs")
        app.pass_time(2_000)
        await see(app, pilot, "28s of 5m")
        app.picture.gone("no daemon runs", "start one", app.time)
        app.picture.took(status(leases=()), app.time)
        app._draw()
        await see(app, pilot, "NO DAEMON")
        await see(app, pilot, "(it has ended)")
        await pilot.press("down", "pagedown", "home", "end", "x", "m")
        await see(app, pilot, "to bob: ")

    play(story)


def test_messages_and_help() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        app.picture.messages_are([message("m1", "bob", "are you done?", "alice")], app.time)
        await pilot.press("6")
        shown = await see(app, pilot, "are you done?")
        assert "6 Messages 1" in shown[1]
        assert "m answer" in shown[23]
        await pilot.press("enter", "m")
        await see(app, pilot, "to bob: ")
        await pilot.press("escape", "question_mark")
        await see(app, pilot, "filter: words that must be in a row")
        assert isinstance(app.screen, InFull)
        await pilot.press("escape", "tab")
        await see(app, pilot, "[7 Events")
        await pilot.press("tab", "shift+tab", "left")
        await see(app, pilot, "[6 Messages")

    play(story)


def test_the_daemon_is_gone_and_back() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        await see(app, pilot, "issue:#42")
        app.picture.gone("the daemon has ended", "start one with `coord start`", app.time)
        app._changed()
        shown = await see(app, pilot, "! the daemon has ended (0ms ago; what is shown is of before).")
        assert shown[0].endswith("NO DAEMON")
        assert any("issue:#42" in line for line in shown)
        app.pass_time(75_000)
        await see(app, pilot, "(1m15s ago")
        app.picture.live(app.time)
        app._changed()
        await see(app, pilot, "live")
        assert not any("ended" in line for line in app.shown)

    play(story)


def test_nothing_is_asked_of_a_daemon_that_is_not_there() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        app.picture.status = None
        app.picture.claims = {}
        app._draw()
        await see(app, pilot, "nothing is known yet")
        await pilot.press("ctrl+c")

    assert play(story).return_value == 130


# --- parts ---------------------------------------------------------------------------------------------------------------


def test_columns_are_squeezed_until_they_fit() -> None:
    columns = (Column("a"), Column("b", 5), Column("wide", wide=True))
    row = Row("k", (Cell("x" * 50), Cell("y" * 50), Cell("z")), Picture(NOW).agents, ())  # type: ignore[arg-type]
    assert widths(columns, [row], 40) == [(0, 33), (1, 5)]
    assert widths(columns, [row], 62) == [(0, 50), (1, 5)]
    assert widths(columns, [row], 63) == [(0, 50), (1, 5), (2, 4)]
    assert widths(columns, [row], 5) == [(0, 4), (1, 4)]
    assert widths(columns, [], 4) == [(0, 1), (1, 1)]


def test_text_is_fitted_and_wrapped_by_what_it_takes_on_the_screen() -> None:
    assert [fitted("abc", 5), fitted("abcdef", 4), fitted("日本語", 4)] == ["abc  ", "abc…", "日 …"]
    assert list(wrapped("one two three", 7)) == ["one two", "three"]
    assert list(wrapped("abcdefgh ij", 3)) == ["abc", "def", "gh", "ij"]
    assert list(wrapped("日本語", 3)) == ["日", "本", "語"]
    assert list(wrapped("", 3)) == [""]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_names_of_the_lists_are_shortened_as_needed(width: int) -> None:
    of = Picture(NOW)
    of.took(status(leases=tuple(lease(n, "bob", f"f{n}") for n in range(500))), NOW)
    line = bars.tab_line(of, "conflicts", width, NOW).plain
    assert "[5 Conflicts 0]" in line
    assert "1 Leas" in line
    assert len(line) <= max(width, 68)


def test_bars() -> None:
    of = Picture(NOW)
    assert bars.head(of, "x\x1b[2J", 40).plain.startswith("coord watch  x�[2J  as -")
    assert bars.gone(of, NOW) == ""
    of.took(status(problems=("the disk is full",)), NOW)
    assert bars.below(of, Filter(), 0, 60).plain.rstrip() == "! the disk is full (see coord doctor)"
    assert acts.trouble(DaemonBusyError("no\x1b", hint="wait")) == "error: no� (wait)"
    assert {line.label for line in HELP} >= {"r", "a", "m", "/", "q"}


def test_a_pause_that_was_none_is_not_ended() -> None:
    numbers = (signal.SIGTSTP, signal.SIGCONT)
    before = [signal.getsignal(number) for number in numbers]
    seen: list[int] = []
    try:
        signals.resume_only_what_was_paused()  # nothing to keep
        assert [signal.getsignal(number) for number in numbers] == before
        for number in numbers:
            signal.signal(number, lambda number, _frame: seen.append(number))
        signals.resume_only_what_was_paused()
        for number in (signal.SIGCONT, signal.SIGTSTP, signal.SIGCONT, signal.SIGCONT):
            signal.raise_signal(number)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert seen == [signal.SIGTSTP, signal.SIGCONT]


def test_times_are_shown_at_once_after_a_pause() -> None:
    async def story(app: Still, pilot: Pilot[int]) -> None:
        await see(app, pilot, "30s")
        app.pass_time(3_600_000)  # a laptop that slept
        await see(app, pilot, "over")

    play(story)
