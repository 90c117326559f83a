"""Fenced blocks of Markdown documents, and how output is compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
EXECUTED: Final = frozenset(("console", "sh", "python", "js", "toml"))
SHOWN: Final = frozenset(("text", "json", "yaml"))
_NOT_RUN: Final = re.compile(r"<!-- not run: (.*?) -->\s*\Z")
_FENCE: Final = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
_TOOK: Final = re.compile(r"(?<=\w)(?: after [\dhms]+)+(?=\s|$)", re.MULTILINE)
"""A lease that took a second or more says so: on a busy machine any may."""
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Block:
    """One fenced block. `not_run`: why it is not executed, from an HTML comment right before it."""

    document: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Step:
    """One command of a `console` block, and the output shown below it."""

    command: str
    expected: str


def documents() -> list[Path]:
    """Every document of the repository."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks_of(document: Path) -> list[Block]:
    """The fenced blocks, in order."""
    text = document.read_text("utf-8")
    blocks = []
    for match in _FENCE.finditer(text):
        indent = match[1]
        body = "".join(line.removeprefix(indent) for line in match[3].splitlines(keepends=True))
        comment = _NOT_RUN.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(document, line, match[2], body, comment[1] if comment else None))
    return blocks


def steps_of(block: Block) -> list[Step]:
    """The commands of a `console` block: `$ ` begins one, `> ` goes on with it, the rest is output."""
    commands: list[list[str]] = []
    outputs: list[list[str]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append([line[2:]])
            outputs.append([])
        elif line.startswith("> ") and commands and not outputs[-1]:
            commands[-1].append(line[2:])
        elif commands:
            outputs[-1].append(line)
        else:
            raise AssertionError(f"{block}: output before the first command: {line!r}")
    return [Step("\n".join(command), "\n".join(output).strip()) for command, output in zip(commands, outputs, strict=True)]


def fits(expected: str, output: str) -> bool:
    """Whether output is as shown: `...` stands for anything, and any white space for any other."""
    parts = [re.escape(" ".join(part.split())) for part in expected.split("...")]
    # White space beside an ellipsis belongs to what it stands for.
    pattern = re.compile(r"\s?.*\s?".join(parts), re.DOTALL)
    said = plain(output)
    return any(pattern.fullmatch(" ".join(text.split())) for text in (said, _TOOK.sub("", said)))


def plain(output: str) -> str:
    """Output without colours."""
    return _ESCAPES.sub("", output)
