"""`coord watch`: the lists on a terminal, kept up to date, with keys to look closer and to act."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ClassVar, Final, TypeVar

from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Key, Resize
from textual.widget import Widget
from textual.widgets import Input, Static

from sudocode_coordination.cli.text import clean
from sudocode_coordination.errors import CoordinationError, UsageError
from sudocode_coordination.model import AgentId, Now, Resource
from sudocode_coordination.place import Clone
from sudocode_coordination.views import acts
from sudocode_coordination.views.bars import below, gone, head, keys, tab_line
from sudocode_coordination.views.details import Line, More, details, holders, title_of
from sudocode_coordination.views.dialogs import HELP, InFull, Question
from sudocode_coordination.views.lines import Details, LineView, Listing, fitted
from sudocode_coordination.views.live import Live
from sudocode_coordination.views.rows import TABS, Column, Item, names, recent, shown_rows
from sudocode_coordination.views.signals import leave_on_signals, resume_only_what_was_paused
from sudocode_coordination.views.state import Claim, Filter, Letter, Picture

WIDE: Final = 120
"""Columns from which there is room for the chosen row in full, and for events, beside the list."""
DRAW_S: Final = 0.1
"""Changes of this time are drawn together."""
SAID_S: Final = 10.0
"""How long the outcome of what was done stays."""
MAX_MESSAGE: Final = 1_000
"""As `api.requests.SendMessage` has it."""
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""
W = TypeVar("W", bound=Widget)
_BESIDE: Final = (Column("time", 8), Column("what has happened"))
_EVENTS: Final = TABS[-1]


class Watch(App[int]):
    """See the module. Its result is the exit code.

    Args:
        clone: whose daemon is watched.
        agent: who acts; None is the daemon's default agent.
        clock: both clocks.
    """

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = "#list"
    CSS = """
    Screen { layout: vertical; }
    .bar, #said, #keys, #tabs, #head { height: 1; padding: 0; }
    #banner { height: auto; display: none; }
    #body { height: 1fr; }
    LineView { height: 1fr; scrollbar-size: 0 0; padding: 0; }
    #side { display: none; width: 2fr; border-left: vkey ansi_default; padding: 0 0 0 1; }
    #list { width: 3fr; }
    Watch.-wide #side { display: block; }
    #chosen-title, #events-title { height: 1; }
    #chosen { height: 3fr; }
    #events { height: 2fr; }
    #prompt { height: 1; display: none; }
    #prompt-label { width: auto; }
    #prompt Input { border: none; height: 1; padding: 0; width: 1fr; background: ansi_default; }
    #question { height: auto; display: none; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"tab({number - 1})", show=False) for number in range(1, len(TABS) + 1)),
        Binding("tab,right", "next_tab(1)", show=False, priority=True),
        Binding("shift+tab,left", "next_tab(-1)", show=False, priority=True),
        Binding("slash", "filter", show=False),
        Binding("escape", "end", show=False),
        Binding("r", "release", show=False),
        Binding("a", "ask", show=False),
        Binding("m", "message", show=False),
        Binding("M", "message_all", show=False),
        Binding("x", "read", show=False),
        Binding("question_mark,h", "help", show=False),
        Binding("q", "close", show=False),
        Binding("ctrl+c", f"leave({INTERRUPTED})", show=False, priority=True),
        Binding("ctrl+q", "leave(0)", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
    ]

    def __init__(self, clone: Clone, agent: AgentId | None, clock: Callable[[], Now]) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"  # the terminal's own colours, whatever its background is
        self.animation_level = "none"
        self._clone = clone
        self._agent = agent
        self._now = clock
        self.picture = Picture(clock(), agent)
        self.live = Live(clone, agent, self.picture, clock, self._changed)
        self.filter = Filter()
        self._tab = TABS[0]
        self._drawing = self._leaving = False
        self._shown = 0
        self._said = ("", 0)
        self._answered: Callable[[str], None] | None = None
        self._confirmed: Callable[[], None] | None = None

    # --- drawing ----------------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Head, names of the lists, the list, what was done, the keys."""
        yield Static(id="head", markup=False)
        yield Static(id="tabs", markup=False)
        yield Static(id="banner", markup=False)
        with Horizontal(id="body"):
            yield Listing(self._now, id="list")
            with Vertical(id="side"):
                yield Static(id="chosen-title", markup=False)
                yield Details(self._now, id="chosen")
                yield Static(id="events-title", markup=False)
                yield Listing(self._now, id="events", chooses=False)
        yield Question("", id="question", markup=False)
        with Horizontal(id="prompt"):
            yield Static(id="prompt-label", markup=False)
            yield Input(id="prompt-input", max_length=MAX_MESSAGE)
        yield Static(id="said", markup=False)
        yield Static(id="keys", markup=False)

    def on_mount(self) -> None:
        """Begin to follow the daemon."""
        leave_on_signals(self.action_leave)
        resume_only_what_was_paused()
        self.set_interval(1.0, self._tick)
        self._follow()
        self._draw()

    def on_resize(self, event: Resize) -> None:
        """More or less room."""
        self.set_class(event.size.width >= WIDE, "-wide")
        self.call_after_refresh(self._draw)

    def _follow(self) -> None:
        self.run_worker(self.live.run(), name="live")

    def on_unmount(self) -> None:
        """Follow nothing any more."""
        self.live.stop()

    def _changed(self) -> None:
        if not self._drawing and self.is_running:
            self._drawing = True
            self.set_timer(DRAW_S, self._draw)

    def _tick(self) -> None:
        """A second has passed: times are others, rows are not."""
        if not self._is_shown():
            return
        for lines in self.screen.query(LineView):
            lines.redraw()
        if not isinstance(self.screen, InFull):
            now = self._now()
            self._draw_banner(now)
            self._draw_bottom(now)

    def _draw(self) -> None:
        """Draw what has changed since."""
        self._drawing = False
        if not self._is_shown():
            return
        now = self._now()
        if isinstance(self.screen, InFull):
            for lines in self.screen.query(Details):  # none before it is mounted
                lines.redraw()
            return
        rows = shown_rows(self._tab, self.picture, self.filter, now)
        none = self._tab.none if not self.filter else "nothing here has it (Esc: no filter)"
        if self.picture.status is None:
            none = "asking the daemon …" if self.picture.link.state == "connecting" else "nothing is known yet"
        self._one("#list", Listing).show_rows(self._tab.columns, rows, none)
        self._draw_side()
        self._set("#head", head(self.picture, os.path.basename(self._clone.root), self.size.width))  # noqa: PTH119
        self._set("#tabs", tab_line(self.picture, self._tab.name, self.size.width, now))
        self._draw_banner(now)
        self._shown = len(rows)
        self._draw_bottom(now)

    def _draw_side(self) -> None:
        if self.size.width < WIDE:
            return
        row = self._one("#list", Listing).chosen
        self._set("#chosen-title", Content.styled(clean(title_of(row.item)) if row else "nothing is chosen", "bold"))
        self._one("#chosen", Details).show_lines(lambda at: details(self.picture, self._fresh(row.item), at) if row else ())
        self._set("#events-title", Content.styled("Events", "bold"))
        self._one("#events", Listing).show_rows(_BESIDE, recent(self.picture, self.size.height), _EVENTS.none)

    def _draw_banner(self, now: Now) -> None:
        banner, text = self._one("#banner", Static), gone(self.picture, now)
        banner.display = bool(text)
        self._set("#banner", Content.styled(text, "bold reverse"))

    def _draw_bottom(self, now: Now) -> None:
        text, until = self._said
        if text and now.instant < until:
            said = Content.styled(fitted(text, self.size.width), "bold")
        else:
            said = below(self.picture, self.filter, self._shown, self.size.width)
        self._set("#said", said)
        self._set("#keys", keys(self._tab.name, self.size.width))

    def _is_shown(self) -> bool:
        """Not while it ends: timers are heard a moment longer than there is something to draw on."""
        return not self._leaving and bool(self.screen_stack)

    def _one(self, selector: str, kind: type[W]) -> W:
        """A widget of the lists' screen, whatever lies over it."""
        return self.screen_stack[0].query_one(selector, kind)

    def _set(self, selector: str, content: Content) -> None:
        """Only what differs is drawn again."""
        static = self._one(selector, Static)
        if static.content != content:
            static.update(content)

    def tell(self, text: str) -> None:
        """Show the outcome of something for a while; clean text."""
        self._said = (text, self._now().instant + round(SAID_S * 1000))
        self._changed()

    # --- looking ----------------------------------------------------------------------------------------------------------

    def action_tab(self, number: int) -> None:
        """Another list."""
        self._tab = TABS[number]
        if self._tab.name == "messages":
            self.live.look("messages")
        self._draw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While something is written or asked, or lies over the lists, keys are for that."""
        del parameters
        if action in ("leave", "suspend_process"):
            return True
        if isinstance(self.screen, InFull):
            return False
        writing = self._answered is not None or self._confirmed is not None
        return action == "end" if writing else True

    def action_next_tab(self, by: int) -> None:
        """The list beside it."""
        self.action_tab((TABS.index(self._tab) + by) % len(TABS))

    def action_help(self) -> None:
        """The keys."""
        self.push_screen(InFull("Keys", lambda _now: HELP, self._now, told="Esc back"))

    def on_listing_moved(self) -> None:
        """Another row is chosen."""
        self._draw()

    def on_listing_opened(self, event: Listing.Opened) -> None:
        """All about it."""
        item = event.row.item
        asked: list[More] = []

        def source(now: Now) -> list[Line]:
            current = self._fresh(item)
            ended = isinstance(item, Claim) and item.lease.claim_id not in self.picture.claims
            over = [Line("", "(it has ended)")] if ended else []
            if self.picture.link.state == "gone":
                over.insert(0, Line("NO DAEMON", gone(self.picture, now)))
            return over + details(self.picture, current, now, asked[-1] if asked else None)

        async def ask() -> None:
            asked.append(await acts.ask_more(self.live, item))
            self._changed()

        pressed = "ram" if isinstance(item, Claim) else "mx" if isinstance(item, Letter) else "m"
        words = {"r": "r release", "a": "a ask for it", "m": "m message", "x": "x mark as read"}
        told = "  ".join([*(words[key] for key in pressed), "↑↓ scroll", "Esc back"])
        self.push_screen(InFull(title_of(item), source, self._now, keys=pressed, told=told), partial(self._chosen_in_full, item))
        self.run_worker(ask(), name="more")

    def _chosen_in_full(self, item: Item, key: str | None) -> None:
        self._draw()
        match key:
            case "r":
                self._release(item)
            case "a":
                self._ask(item)
            case "m":
                self._message(item)
            case "x":
                self._mark_read(item)
            case _:
                pass

    def _fresh(self, item: Item) -> Item:
        """It as it is now, if it is still there."""
        if isinstance(item, Claim):
            return self.picture.claims.get(item.lease.claim_id, item)
        return self.picture.letters.get(item.message.message_id, item) if isinstance(item, Letter) else item

    # --- acting -----------------------------------------------------------------------------------------------------------

    def _chosen(self) -> Item | None:
        row = self._one("#list", Listing).chosen
        return row.item if row is not None else None

    def action_release(self) -> None:
        """Give the chosen lease back."""
        self._with_chosen(self._release)

    def action_ask(self) -> None:
        """Ask for the chosen lease."""
        self._with_chosen(self._ask)

    def action_message(self) -> None:
        """Write to whom the chosen row is about."""
        self._with_chosen(self._message)

    def action_message_all(self) -> None:
        """Write to everybody."""
        self._prompt("to everybody: ", lambda text: self._do(lambda: acts.say(self.live.client, self._agent, text, (), None)))

    def action_read(self) -> None:
        """Mark the chosen message as read."""
        self._with_chosen(self._mark_read)

    def _with_chosen(self, act: Callable[[Item], None]) -> None:
        item = self._chosen()
        if item is None:
            self.tell("nothing is chosen")
        else:
            act(item)

    def _release(self, item: Item) -> None:
        try:
            claim = acts.may_release(self.picture, item)
        except UsageError as error:
            self.tell(acts.trouble(error))
            return
        lease = claim.lease
        other = "" if lease.agent_id == self.picture.agent else f" for {clean(lease.agent_id)}, an agent of this clone"
        what = names(lease.resources)
        question = f"Release {what}{other}? (y/n)" if claim.held else f"Stop waiting for {what}{other}? (y/n)"
        self._confirm(question, lambda: self._do(lambda: acts.release(self.live.client, lease, self._clone.root)))

    def _ask(self, item: Item) -> None:
        try:
            claim = acts.may_ask(self.picture, item)
        except UsageError as error:
            self.tell(acts.trouble(error))
            return
        whom = clean(claim.lease.agent_id) if claim.held else "its holder"
        label = f"ask {whom} (Enter alone: {acts.ask_text(claim.lease)}): "
        if cell_len(label) > self.size.width // 2:
            label = f"ask {fitted(whom, 20).rstrip()} for it: "
        self._prompt(label, lambda text: self._do(lambda: acts.ask(self.live.client, self._agent, claim, text)), empty=True)

    def _message(self, item: Item) -> None:
        to = holders(self.picture, item)
        about: Resource | None = None
        reply = ""
        if isinstance(item, Claim):
            about = item.lease.resources[0]
        elif isinstance(item, Letter):
            about, reply = item.message.resource, "" if self.picture.is_own(item.message) else item.message.message_id
        if not to and about is None:
            self.tell("that concerns nobody in particular (M: to everybody)")
            return
        if to == (self.picture.agent,):
            self.tell("that is about this agent itself (M: to everybody)")
            return
        whom = clean(", ".join(to), 40) or f"all on {clean(about)}"
        self._prompt(f"to {whom}: ", lambda text: self._do(lambda: acts.say(self.live.client, self._agent, text, to, about, reply)))

    def _mark_read(self, item: Item) -> None:
        if not isinstance(item, Letter):
            self.tell("only messages can be marked as read (6)")
            return
        if self.picture.is_own(item.message):
            self.tell("that is a message of your own; its readers mark it")
            return
        self._do(lambda: acts.mark_read(self.live.client, self._agent, item))

    def _do(self, act: Callable[[], Awaitable[str]]) -> None:
        async def run() -> None:
            try:
                self.tell(await act())
            except CoordinationError as error:
                self.tell(acts.trouble(error))
            self.live.look("status", "messages", "conflicts")

        self.run_worker(run(), name="act")

    # --- asking the person ------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Which rows are shown."""
        self._prompt("filter: ", self._set_filter, empty=True, text=self.filter.text)

    def action_end(self) -> None:
        """Nothing of it, or no filter."""
        self._said = ("", 0)
        filtering = self._answered is None or self._answered == self._set_filter
        if self._answered is not None:
            self._end_prompt()
        if filtering:
            self._set_filter("")

    def _set_filter(self, text: str) -> None:
        self.filter = Filter(text)
        self._draw()

    def _prompt(self, label: str, answered: Callable[[str], None], *, empty: bool = False, text: str = "") -> None:
        """Let a line be written. `empty`: one without text counts too."""
        self._said = ("", 0)
        self._answered = answered if empty else lambda said: answered(said) if said.strip() else None
        self._set("#prompt-label", Content.styled(label, "bold"))
        field = self._one("#prompt-input", Input)
        field.value = text
        self._one("#prompt", Horizontal).display = True
        self._one("#list", Listing).locked = True
        self.screen.set_focus(field)  # now: the next key is for it
        self._changed()

    def on_key(self, event: Key) -> None:
        """Keys for the line that is written, also those typed so fast that the list had them. Bindings come after this, and
        with the focus as it is then: what is done here must not count for the list too."""
        if self._answered is None:
            return
        if event.key == "enter":
            event.prevent_default().stop()
            self._submit()
        elif event.is_printable and event.character is not None:
            event.prevent_default().stop()
            self._one("#prompt-input", Input).insert_text_at_cursor(event.character)

    def _submit(self) -> None:
        answered, text = self._answered, self._one("#prompt-input", Input).value
        self._end_prompt()
        if answered is not None:
            answered(text)

    def on_input_changed(self, event: Input.Changed) -> None:
        """A filter shows at once what it leaves."""
        if self._answered == self._set_filter:
            self._set_filter(event.value)

    def _end_prompt(self) -> None:
        self._answered = None
        self._back_to_list()
        self._one("#prompt", Horizontal).display = False
        self._changed()

    def _back_to_list(self) -> None:
        """Before what has the focus is hidden: the next key would be nobody's."""
        listing = self._one("#list", Listing)
        listing.locked = False
        self.screen_stack[0].set_focus(listing)

    def _confirm(self, question: str, confirmed: Callable[[], None]) -> None:
        self._said = ("", 0)
        self._confirmed = confirmed
        asked = self._one("#question", Question)
        asked.update(Content(question))
        asked.display = True
        self.screen.set_focus(asked)
        self._changed()

    def on_question_answered(self, event: Question.Answered) -> None:
        """Yes or no."""
        confirmed, self._confirmed = self._confirmed, None
        self._back_to_list()
        self._one("#question", Question).display = False
        if event.yes and confirmed is not None:
            confirmed()
        self._changed()

    def action_close(self) -> None:
        """The end."""
        self.action_leave(0)

    def action_leave(self, code: int) -> None:
        """The end, with that exit code."""
        self._leaving = True
        self.exit(code)
