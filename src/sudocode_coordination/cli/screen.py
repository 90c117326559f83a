"""Where output goes: JSON documents or text on standard output, errors and progress on standard error.

Blocks are what renderers produce: a line, or a table. On a terminal tables are drawn by rich (loaded only then) and fitted to
its width; elsewhere they are plain aligned columns, nothing cut off, for `grep` and for agents that read them.
"""

from __future__ import annotations

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
    """Columns with a heading. `keep`: columns never shortened on a narrow terminal."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keep: frozenset[str] = frozenset()


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
    from rich.table import Table as RichTable
    from rich.text import Text

    def text_of(cell: Cell) -> Text:
        return Text(str(cell), style=cell.style if isinstance(cell, Styled) else "")

    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    for block in blocks:
        if not isinstance(block, Table):
            console.print(text_of(block), overflow="fold")
            continue
        table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in block.columns:
            kept = name in block.keep
            table.add_column(
                name, no_wrap=True, overflow="ellipsis", min_width=None if not kept else _width(block, name, console.width)
            )
        for row in block.rows:
            table.add_row(*(text_of(cell) for cell in row))
        console.print(table)


def _width(block: Table, name: str, available: int) -> int:
    at = block.columns.index(name)
    # A kept column still may not push the others off the screen: ids can be 100 characters long.
    return min(max(len(name), *(len(str(row[at])) for row in block.rows)) if block.rows else len(name), max(8, available // 3))


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


def drop_output() -> None:
    """Nobody reads standard output any more: send the rest nowhere, so that the flush at exit does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None  # closed already: there is nothing left to flush
    finally:
        os.close(nowhere)
