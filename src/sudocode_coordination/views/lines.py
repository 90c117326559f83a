"""Lines on a terminal: a list with a selection that stays while its rows change, and text to scroll through.

Only what changes is drawn again, to the column: a second that passes costs a few bytes, over ssh too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from sudocode_coordination.model import Now
from sudocode_coordination.views.details import Line
from sudocode_coordination.views.rows import Ago, Column, Left, Row, Tone

Piece: TypeAlias = tuple[str, Tone]

GAP: Final = 2
"""Blanks between columns."""
ENOUGH: Final = 20
"""Columns that a column which need not be there gets at least, or as many as it needs: of a note one reads the beginning."""
LEAST: Final = 4
"""Columns that even a squeezed column keeps: enough to see that something is there."""
LABEL: Final = 11
"""Columns for what a line of details is about."""
STYLES: Final[dict[Tone, Style]] = {
    "": Style(),
    "good": Style(color="green"),
    "warn": Style(color="yellow"),
    "bad": Style(color="red", bold=True),
    "dim": Style(dim=True),
    "strong": Style(bold=True),
}
_CHOSEN: Final = Style(reverse=True)


class LineView(ScrollView):
    """Base: lines that are made when they are seen. Subclasses say how many there are (`total`) and what is in one (`pieces`)."""

    def __init__(self, clock: Callable[[], Now], *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._clock = clock
        self._drawn: dict[int, Strip] = {}

    def total(self) -> int:
        """Lines in all."""
        raise NotImplementedError

    def pieces(self, y: int, width: int, now: Now) -> list[Piece]:
        """What stands in the line at `y` of the window."""
        raise NotImplementedError

    def is_chosen(self, y: int) -> bool:
        """Whether it is drawn as the chosen one."""
        del y
        return False

    def redraw(self) -> None:
        """Draw anew what has changed: lines are compared with what is on the screen."""
        self.virtual_size = Size(0, self.total())
        now, width = self._clock(), self.size.width
        for y in range(self.size.height):
            before, strip = self._drawn.get(y), self._strip(y, width, now)
            if before is None:
                self.refresh(Region(0, y, width, 1))
            elif before != strip:
                begin, end = _difference(before, strip)
                self.refresh(Region(begin, y, end - begin, 1))
            self._drawn[y] = strip

    def render_line(self, y: int) -> Strip:
        """One line of the window."""
        strip = self._strip(y, self.size.width, self._clock())
        self._drawn[y] = strip
        return strip

    def _strip(self, y: int, width: int, now: Now) -> Strip:
        chosen = self.is_chosen(y)
        segments = []
        for text, tone in self.pieces(y, width, now):
            segments.append(Segment(text, STYLES[tone] + _CHOSEN if chosen else STYLES[tone]))
        return Strip(segments).adjust_cell_length(width, _CHOSEN if chosen else STYLES[""])


class Listing(LineView, can_focus=True):
    """A list with a heading. The chosen row is kept by its key; with `chooses` False none is, and the first ones are shown.

    Attributes:
        locked: keys are for something else now.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "jump(0)", show=False),
        Binding("end,G", "jump(1)", show=False),
        Binding("enter", "open", show=False),
    ]

    class Opened(Message):
        """Enter was pressed on a row."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    class Moved(Message):
        """Another row is chosen."""

    def __init__(self, clock: Callable[[], Now], *, id: str | None = None, chooses: bool = True) -> None:
        super().__init__(clock, id=id)
        self.can_focus = self._chooses = chooses
        self.locked = False
        self._columns: tuple[Column, ...] = ()
        self._rows: list[Row] = []
        self._none = ""
        self._index = 0
        self._chosen_of: dict[tuple[Column, ...], tuple[str, int]] = {}
        self._widths: tuple[int, list[tuple[int, int]]] | None = None

    def show_rows(self, columns: tuple[Column, ...], rows: list[Row], none: str) -> None:
        """Show these. `none`: what to say if there are none. Of each list, by its columns, the chosen row is remembered."""
        if columns != self._columns:
            self._remember()
            self._index = self._chosen_of.get(columns, ("", 0))[1]
            self._drawn.clear()
        key = self._chosen_of.get(columns, ("", 0))[0]
        self._columns, self._rows, self._none, self._widths = columns, rows, none, None
        if not self._chooses:
            self.redraw()
            return
        found = next((index for index, row in enumerate(rows) if row.key == key), None)
        # Gone: the one that took its place.
        self._index = found if found is not None else max(0, min(self._index, len(rows) - 1))
        self._remember()
        self.redraw()
        self._into_view()

    @property
    def chosen(self) -> Row | None:
        """The row that is chosen, if there is any."""
        return self._rows[self._index] if self._index < len(self._rows) else None

    def total(self) -> int:
        """The heading, the rows, or what is said instead of them."""
        return 1 + max(1, len(self._rows))

    def is_chosen(self, y: int) -> bool:
        """Reversed; it also has a mark."""
        return self._chooses and y > 0 and bool(self._rows) and self.scroll_offset.y + y - 1 == self._index

    def pieces(self, y: int, width: int, now: Now) -> list[Piece]:
        """See the base."""
        if y == 0:
            titles = [(self._columns[at].title.upper(), size) for at, size in self._layout(width)]
            return [("  " + (" " * GAP).join(set_cell_size(title, size) for title, size in titles), "dim")]
        index = self.scroll_offset.y + y - 1
        if not self._rows:
            return [(f"  {self._none}", "dim")] if y == 1 else []
        if index >= len(self._rows):
            return []
        row = self._rows[index]
        found: list[Piece] = [("› " if self._chooses and index == self._index else "  ", "strong")]
        for number, (at, size) in enumerate(self._layout(width)):
            cell = row.cells[at].shown(now)
            found.append(((" " * GAP if number else "") + fitted(cell.text, size), cell.tone))
        return found

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """See `locked`."""
        del action, parameters
        return not self.locked

    def action_move(self, by: int) -> None:
        """To the next row, or the one before."""
        self._choose(self._index + by)

    def action_page(self, by: int) -> None:
        """A screenful."""
        self._choose(self._index + by * max(1, self.size.height - 2))

    def action_jump(self, to: int) -> None:
        """To the first or the last one."""
        self._choose(to * (len(self._rows) - 1))

    def action_open(self) -> None:
        """Tell that it was opened."""
        if self.chosen is not None:
            self.post_message(self.Opened(self.chosen))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """All lines are others then."""
        super().watch_scroll_y(old_value, new_value)
        self._drawn.clear()

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _choose(self, index: int) -> None:
        index = max(0, min(index, len(self._rows) - 1))
        if index != self._index:
            self._index = index
            self._remember()
            self._into_view()
            self.redraw()
            self.post_message(self.Moved())

    def _remember(self) -> None:
        if self.chosen is not None:
            self._chosen_of[self._columns] = (self.chosen.key, self._index)

    def _into_view(self) -> None:
        seen = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if self._index < top:
            self.scroll_to(y=self._index, animate=False, immediate=True)
        elif self._index >= top + seen:
            self.scroll_to(y=self._index - seen + 1, animate=False, immediate=True)

    def _layout(self, width: int) -> list[tuple[int, int]]:
        """Shown columns, with their sizes."""
        if self._widths is None or self._widths[0] != width:
            self._widths = (width, widths(self._columns, self._rows, width - 2))
        return self._widths[1]


class Details(LineView):
    """Labelled lines, wrapped at words."""

    def __init__(self, clock: Callable[[], Now], *, id: str | None = None) -> None:
        super().__init__(clock, id=id)
        self._source: Callable[[Now], Sequence[Line]] = lambda _now: ()
        self._wrapped: list[tuple[Piece, Piece]] = []

    def show_lines(self, source: Callable[[Now], Sequence[Line]]) -> None:
        """Show what that gives, now and at each redrawing."""
        self._source = source
        self.redraw()

    def redraw(self) -> None:
        """See the base."""
        self._wrap()
        super().redraw()

    def on_resize(self) -> None:
        """Wrap anew."""
        self.redraw()

    def total(self) -> int:
        """Lines as they are wrapped."""
        return len(self._wrapped)

    def pieces(self, y: int, width: int, now: Now) -> list[Piece]:
        """See the base."""
        del width, now
        index = self.scroll_offset.y + y
        return list(self._wrapped[index]) if index < len(self._wrapped) else []

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """All lines are others then."""
        super().watch_scroll_y(old_value, new_value)
        self._drawn.clear()

    def _wrap(self) -> None:
        room = max(8, self.size.width - LABEL - 1)
        self._wrapped = []
        if self.size.width == 0:  # it has no place yet
            return
        for label, text in self._source(self._clock()):
            for number, part in enumerate(wrapped(text, room)):
                self._wrapped.append(((f"{'' if number else label:<{LABEL}} "[: LABEL + 1], "dim"), (part, "")))


def fitted(text: str, size: int) -> str:
    """The text in exactly so many columns of the terminal; cut off with an ellipsis."""
    return set_cell_size(text, size) if cell_len(text) <= size else set_cell_size(text, max(0, size - 1)) + "…"


def wrapped(text: str, room: int) -> Iterable[str]:
    """Lines of at most so many columns, broken at blanks where there are any."""
    line = ""
    for word in text.split(" ") if cell_len(text) > room else [text]:
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= room:
            line = joined
            continue
        if line:
            yield line
        while cell_len(word) > room:
            part = set_cell_size(word, room).rstrip()
            yield part
            word = word[len(part) :] if part else ""
        line = word
    yield line


def widths(columns: Sequence[Column], rows: Sequence[Row], room: int) -> list[tuple[int, int]]:
    """Which columns are shown in so much room, and how wide: as their text needs, the widest shortened until all fit. Those that
    are marked wide come in if they fit beside the others, the last ones first."""
    sizes = {at: _natural(column, at, rows) for at, column in enumerate(columns)}
    shown = [at for at, column in enumerate(columns) if not column.wide]
    needed = sum(sizes[at] + GAP for at in shown) - GAP
    for at in reversed(range(len(columns))):
        least = GAP + min(sizes[at], ENOUGH)
        if columns[at].wide and needed + least <= room:
            shown.append(at)
            needed += least
    shown.sort()
    spare = room - GAP * (len(shown) - 1) - sum(sizes[at] for at in shown)
    while spare < 0:
        widest = max(shown, key=lambda at: sizes[at])
        if sizes[widest] <= LEAST:
            break
        sizes[widest] -= 1
        spare += 1
    return [(at, sizes[at]) for at in shown]


def _natural(column: Column, at: int, rows: Sequence[Row]) -> int:
    least = len(column.title)
    if any(isinstance(row.cells[at], (Left, Ago)) for row in rows):  # it must not jump while time goes by
        return max(least, column.cap)
    size = max((cell_len(cell.text) for row in rows if not isinstance(cell := row.cells[at], (Left, Ago))), default=0)
    return max(least, min(size, column.cap) if column.cap else size)


def _difference(before: Strip, after: Strip) -> tuple[int, int]:
    """From which column to which two lines of the same width differ."""
    ones, others = list(before), list(after)
    lengths = [segment.cell_length for segment in ones]
    if lengths != [segment.cell_length for segment in others]:
        return 0, max(before.cell_length, after.cell_length)
    differ = [at for at, (one, other) in enumerate(zip(ones, others, strict=True)) if one != other]
    return sum(lengths[: differ[0]]), sum(lengths[: differ[-1] + 1])
