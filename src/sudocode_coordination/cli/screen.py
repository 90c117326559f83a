"""Where output goes: JSON documents or text on standard output, errors and progress on standard error.

Blocks are what renderers produce: a line, or a table. On a terminal tables are drawn by rich (loaded only then) and fitted to
its width; elsewhere they are plain aligned columns, nothing cut off, for `grep` and for agents that read them.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO, TypeAlias

from sudocode_coordination.cli.text import clean, json_text
from sudocode_coordination.errors import CoordinationError

NOBODY_READS = 141
"""Exit code, 128 + SIGPIPE as shells have it: `coord events | head -1` is no failure of ours, and no success either."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write to a file says that takes nothing more."""
GAP = 2
"""Blanks between columns."""
PROGRESS_AFTER_S = 1.0
"""What is quicker needs no word about it."""


@dataclass(frozen=True, slots=True)
class Styled:
    """A line or a cell with a rich style; plain where there is no terminal."""

    text: str
    style: str = ""

    def __str__(self) -> str:
        return self.text


Cell: TypeAlias = str | Styled


@dataclass(frozen=True, slots=True)
class Table:
    """Columns with a heading. `below`: columns that go under their row where the terminal is too narrow for all."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    below: frozenset[str] = frozenset()


Block: TypeAlias = Cell | Table


def plain_lines(block: Block) -> list[str]:
    """The block as text without colour, columns two spaces apart."""
    if not isinstance(block, Table):
        return str(block).split("\n")
    rows = [tuple(c.upper() for c in block.columns), *(tuple(str(cell) for cell in row) for row in block.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(block.columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def draw(blocks: Sequence[Block], stream: TextIO, width: int | None = None) -> None:
    """The blocks on a terminal, with colour unless NO_COLOR forbids it, never wider than it is."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    for block in blocks:
        lines = _fitted(block, console.width) if isinstance(block, Table) else [[block]]
        for cells in lines:
            line = Text()
            for cell in cells:
                line.append(str(cell), style=cell.style if isinstance(cell, Styled) else None)
            console.print(line, overflow="fold")


def _fitted(table: Table, available: int) -> list[list[Cell]]:
    """Lines of a table, as pieces. Too wide: first the `below` columns leave, then the widest are shortened."""
    from rich.cells import cell_len, set_cell_size

    def natural(at: int) -> int:
        return max(cell_len(table.columns[at]), *(cell_len(str(row[at])) for row in table.rows), 0)

    def total(columns: list[int]) -> int:
        return sum(widths[at] for at in columns) + GAP * (len(columns) - 1)

    shown = list(range(len(table.columns)))
    widths = {at: natural(at) for at in shown}
    if total(shown) > available:
        shown = [at for at in shown if table.columns[at] not in table.below]
    while total(shown) > available and max(widths[at] for at in shown) > 1:
        widest = max(shown, key=lambda at: widths[at])
        widths[widest] -= 1

    def padded(cell: Cell, at: int) -> Cell:
        text = str(cell)
        if cell_len(text) > widths[at]:
            text = set_cell_size(text, widths[at] - 1) + "…"
        last = at == shown[-1]
        text = text if last else set_cell_size(text, widths[at]) + " " * GAP
        return Styled(text, cell.style) if isinstance(cell, Styled) else text

    lines: list[list[Cell]] = [[padded(Styled(table.columns[at], "dim"), at) for at in shown]]
    for row in table.rows:
        lines.append([padded(row[at], at) for at in shown])
        rest = [str(row[at]) for at in range(len(row)) if at not in shown and str(row[at]) != "-"]
        if rest:
            lines.append([Styled(f"    {'  '.join(rest)}", "dim")])
    return lines


class Screen:
    """Output of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, document: Any, blocks: Sequence[Block]) -> None:
        """The answer: the document with `--json`, the blocks without."""
        if self.as_json:
            self.document(document)
        elif sys.stdout.isatty() and any(isinstance(block, (Table, Styled)) for block in blocks):
            draw(blocks, sys.stdout)
        else:
            for block in blocks:
                for line in plain_lines(block):
                    self.line(line)

    def document(self, document: Any) -> None:
        """One JSON document; characters outside ASCII are escaped, so it is safe on any terminal."""
        self.line(json_text(document, pretty=sys.stdout.isatty()))

    def line(self, text: str) -> None:
        """One line, at once: others may read along."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Something beside the answer, on standard error; not with `--json`."""
        if not self.as_json:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def error(self, error: CoordinationError) -> None:
        """The error: as a JSON document on standard output with `--json`, else in words on standard error."""
        if self.as_json:
            self.document({"error": error_document(error)})
            return
        sys.stderr.write(f"error: {clean(error.message, 2_000)}\n")
        if error.hint:
            sys.stderr.write(f"hint: {clean(error.hint, 2_000)}\n")
        sys.stderr.flush()

    @contextmanager
    def progress(self, what: str) -> Iterator[None]:
        """Say what is being waited for if it takes over a second and a person is watching."""
        if self.as_json or not sys.stderr.isatty():
            yield
            return
        import threading

        done = threading.Event()
        lock = threading.Lock()

        def tell() -> None:
            seconds = 0
            while not done.wait(PROGRESS_AFTER_S):
                seconds += 1
                with lock:
                    if not done.is_set():
                        sys.stderr.write(f"\r\x1b[2K{what} … {seconds}s")
                        sys.stderr.flush()

        teller = threading.Thread(target=tell, daemon=True, name="progress")
        teller.start()
        try:
            yield
        finally:
            done.set()
            with lock:
                sys.stderr.write("\r\x1b[2K")
                sys.stderr.flush()


def error_document(error: CoordinationError) -> dict[str, str]:
    """`{code, message, hint}`."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def prepare_streams() -> None:
    """Characters that the terminal's encoding lacks are escaped instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def output_failed(error: OSError) -> int:
    """Standard output takes nothing more; the exit code.

    Raises:
        OSError: the error is none of a file that takes nothing.
    """
    if isinstance(error, BrokenPipeError):
        drop_output()
        return NOBODY_READS
    if error.errno not in _FULL or error.filename is not None:
        raise error
    drop_output()
    sys.stderr.write(f"error: the output can't be written: {error.strerror}\nhint: make room where it goes\n")
    return 1


def drop_output() -> None:
    """Nobody reads standard output any more: send the rest nowhere, so that the flush at exit does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None  # closed already: there is nothing left to flush
    finally:
        os.close(nowhere)
