"""Histories with many merges, made by dice: the same seed makes the same commits.

Two sides of each merge edit a tree of program-like files: bodies of functions change, functions come and go, files are renamed,
moved, deleted and added, some files are hot. What they have in common with real histories is where edits fall, not what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

Tree = dict[str, list[str]]

FILES: Final = 60
FOLDERS: Final = ("src", "src/core", "src/net", "tests", "docs")
WORDS: Final = (
    *("state", "peer", "frame", "claim", "lease", "branch", "record", "table", "offer", "queue", "index", "marker", "budget"),
    *("window", "topic", "signal"),
)
START_S: Final = 1_700_000_000
"""Date of the first commit, seconds since 1970."""


def history(seed: int, merges: int) -> Iterator[bytes]:
    """A stream for `git fast-import`: a branch `main` with so many merges of two."""
    dice = Random(seed)
    tree = {f"{dice.choice(FOLDERS)}/file{number}.py": _file(dice) for number in range(FILES)}
    mark = 1
    yield _commit(mark, tree, ())
    for _ in range(merges):
        sides = []
        for _ in range(2):
            changed = tree
            for _ in range(dice.randint(1, 3)):
                changed = _edited(dice, changed)
            sides.append(changed)
        yield _commit(mark + 1, sides[0], (mark,))
        yield _commit(mark + 2, sides[1], (mark,))
        tree = _joined(tree, *sides)
        yield _commit(mark + 3, tree, (mark + 1, mark + 2))
        mark += 3


def _file(dice: Random) -> list[str]:
    lines = ['"""A module."""', "", "import os", ""]
    for _ in range(dice.randint(3, 25)):
        lines += _function(dice)
    return lines


def _function(dice: Random) -> list[str]:
    name = f"{dice.choice(WORDS)}_{dice.choice(WORDS)}_{dice.randint(1, 99)}"
    body = [f"    {dice.choice(WORDS)} = {dice.choice(WORDS)}({dice.randint(0, 9)})" for _ in range(dice.randint(1, 8))]
    return [f"def {name}({dice.choice(WORDS)}):", *body, f"    return {dice.choice(WORDS)}", "", ""]


def _hot(dice: Random, tree: Tree) -> str:
    """Some files are touched far more often than others."""
    names = sorted(tree)
    return names[min(len(names) - 1, int(dice.paretovariate(0.9)) - 1)]


def _edited(dice: Random, tree: Tree) -> Tree:
    """One piece of work: a few files."""
    after = dict(tree)
    for _ in range(dice.randint(1, 4)):
        path = _hot(dice, after)
        lines = list(after[path])
        at = dice.randrange(len(lines)) if lines else 0
        kind = dice.choices(
            ("change", "insert", "cut", "append", "rewrite", "rename", "move", "delete", "add"), (40, 20, 8, 12, 2, 3, 2, 1, 6)
        )[0]
        if kind == "change":
            for line in range(at, min(len(lines), at + dice.randint(1, 4))):
                lines[line] = f"    {dice.choice(WORDS)} = {dice.randint(0, 999)}"
        elif kind == "insert":
            lines[at:at] = _function(dice)
        elif kind == "cut":
            del lines[at : at + dice.randint(1, 8)]
        elif kind == "append":
            lines += _function(dice)
        elif kind == "rewrite":
            lines = _file(dice)
        elif kind == "add":
            path, lines = f"{dice.choice(FOLDERS)}/new{dice.randint(0, 40)}.py", _file(dice)
        elif len(after) > FILES // 2:
            del after[path]
            name = path.rpartition("/")[2]
            if kind == "delete":
                continue
            path = f"{dice.choice(FOLDERS)}/{name if kind == 'move' else f'renamed{dice.randint(0, 40)}.py'}"
        after[path] = lines
    return after


def _joined(base: Tree, ours: Tree, theirs: Tree) -> Tree:
    """What the merge is committed as: by file, whoever changed it."""
    merged = {}
    for path in sorted(ours.keys() | theirs.keys()):
        chosen = theirs if ours.get(path) == base.get(path) else ours
        if path in chosen:
            merged[path] = chosen[path]
    return merged


def _commit(mark: int, tree: Tree, parents: tuple[int, ...]) -> bytes:
    head = [f"commit refs/heads/main\nmark :{mark}\ncommitter dice <dice@sudocode.invalid> {START_S + mark} +0000\ndata 2\n.\n"]
    head += [f"{'merge' if number else 'from'} :{parent}\n" for number, parent in enumerate(parents)]
    parts = ["".join(head), "deleteall\n"]
    for path, lines in sorted(tree.items()):
        text = "".join(f"{line}\n" for line in lines)
        parts.append(f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n")
    return "".join(parts).encode()
