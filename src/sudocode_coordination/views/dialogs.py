"""What takes the place of the lists for a while: one thing in full, or the keys; and the line in which a person answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from sudocode_coordination.model import Now
from sudocode_coordination.views.details import Line
from sudocode_coordination.views.lines import Details

HELP: Final[tuple[Line, ...]] = (
    Line("lists", ""),
    Line("1 … 7", "Leases, Work, Agents, Queue, Conflicts, Messages, Events"),
    Line("Tab", "the next list; Shift+Tab: the one before (or → and ←)"),
    Line("↑ ↓", "choose a row (or k and j); PgUp, PgDn, Home, End"),
    Line("Enter", "all about it: who, what, since when, who waits, what was before"),
    Line("/", "filter: words that must be in a row; -word: must not; agent:bob"),
    Line("Esc", "no filter, or back"),
    Line("", ""),
    Line("acting", ""),
    Line("r", "release a lease of an agent of this clone (marked *)"),
    Line("a", "ask the holder to release it"),
    Line("m", "message to whom the row is about; in Messages: answer"),
    Line("M", "message to everybody"),
    Line("x", "in Messages: mark as read; its sender sees that"),
    Line("", ""),
    Line("q", "leave (or Ctrl-C); Ctrl-Z: put aside, `fg` comes back"),
    Line("", ""),
    Line(
        "leases", "held: a majority of the clones has agreed. provisional: all who could be reached have; it may overlap another. "
    ),
    Line("", "strict N: decided by the git remote, with fencing token N. shared: others may hold it shared too."),
    Line("left", "until it ends if it is not renewed; a living holder's daemon renews it at half of its time"),
    Line("queue", "place 1 is next; higher priorities go first, then those who have waited longer"),
    Line("conflicts", "now: an agent of this clone works on what another one holds or works on; else told of, and when"),
    Line("docs", "docs/watch.md"),
)
"""The keys, and what the words mean."""


class InFull(Screen[str | None]):
    """Lines to scroll through, with a title; the result is the key of what to do with it, None: nothing.

    Args:
        title: clean text.
        source: the lines, at a time.
        clock: both clocks.
        keys: what can be pressed, besides Esc.
        told: what to show at the bottom.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark", "leave", show=False),
        Binding("up,k", "scroll(-1)", show=False),
        Binding("down,j", "scroll(1)", show=False),
        Binding("pageup", "scroll(-10)", show=False),
        Binding("pagedown,space", "scroll(10)", show=False),
        Binding("home", "scroll(-1000)", show=False),
        Binding("end", "scroll(1000)", show=False),
        *(Binding(key, f"choose('{key}')", show=False) for key in "ramx"),
    ]

    def __init__(
        self, title: str, source: Callable[[Now], Sequence[Line]], clock: Callable[[], Now], *, keys: str = "", told: str
    ) -> None:
        super().__init__()
        self._title_text = title
        self._source = source
        self._clock = clock
        self._keys = keys
        self._told = told

    def compose(self) -> ComposeResult:
        """Title, lines, keys."""
        yield Static(Content.styled(self._title_text, "bold"), classes="bar")
        yield Details(self._clock, id="full")
        yield Static(Content.styled(self._told, "dim"), classes="bar")

    def on_mount(self) -> None:
        """Show it."""
        self.query_one(Details).show_lines(self._source)

    def action_leave(self) -> None:
        """Back to the lists."""
        self.dismiss(None)

    def action_choose(self, key: str) -> None:
        """Back, and do something with it."""
        if key in self._keys:
            self.dismiss(key)

    def action_scroll(self, by: int) -> None:
        """Up or down."""
        self.query_one(Details).scroll_relative(y=by, animate=False)


class Question(Static, can_focus=True):
    """A question on one line, answered by y or n."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", show=False),
        Binding("n,escape", "answer(False)", show=False),
    ]

    class Answered(Message):
        """Yes or no."""

        def __init__(self, yes: bool) -> None:
            super().__init__()
            self.yes = yes

    def action_answer(self, yes: bool) -> None:
        """Tell it."""
        self.post_message(self.Answered(yes))
