"""What live diffs cost in a large repository: processor time of a look at rest, of one after an edit, and of a forecast.

    uv run python -m benchmarks.diffs [files]

Processor time is that of this process and of every git it runs. A daemon pauses fifty times what a look took, and looks no oftener
than `file_diff_interval_ms`, so the share of a core at rest follows from the time of a look.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import trio

from sudocode_coordination.adapters.diff_home import DiffHome
from sudocode_coordination.adapters.foresight import Foresight
from sudocode_coordination.adapters.gitrun import GitRunner
from sudocode_coordination.adapters.worktree_scan import Scanner
from sudocode_coordination.adapters.worktrees import LOOK_SHARE, MAX_PAUSE_S
from sudocode_coordination.core.secrecy import Denial

T = TypeVar("T")
FILES: Final = 50_000
PER_FOLDER: Final = 100
LINES: Final = 60
ROUNDS: Final = 7
INTERVAL_S: Final = 2.0
"""The default of `file_diff_interval_ms`."""


def git(folder: Path, *arguments: str, give: bytes = b"") -> None:
    """Run git."""
    identity = {f"GIT_{who}_{what}": "bench@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(
        ["git", *arguments], cwd=folder, input=give, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **identity}
    )


def make(folder: Path, files: int) -> tuple[Path, Path]:
    """A bare remote with so many files, and two clones of it."""
    shop = folder / "shop.git"
    git(folder, "init", "-q", "--bare", "--initial-branch=main", str(shop))
    parts = [b"commit refs/heads/main\ncommitter bench <b@b> 1700000000 +0000\ndata 1\n.\n"]
    for number in range(files):
        text = "".join(f"line {line} of file {number}\n" for line in range(LINES)).encode()
        parts.append(b"M 100644 inline %s\ndata %d\n%s\n" % (name_of(number).encode(), len(text), text))
    git(shop, "fast-import", "--quiet", give=b"".join(parts))
    for name in ("ann", "ben"):
        git(folder, "clone", "-q", str(shop), name)
    return folder / "ann", folder / "ben"


def name_of(number: int) -> str:
    """A path, three folders deep."""
    folder = number // PER_FOLDER
    return f"pkg{folder % 10}/mod{folder // 10 % 10}/part{folder // 100}/file{number}.py"


def scanner_of(root: Path, folder: Path) -> tuple[Scanner, DiffHome]:
    """As a daemon has it."""
    common = root / ".git"
    home = DiffHome(common, folder / f"{root.name}-home.git", "origin", GitRunner(common, None, "origin", 60), 60)
    scanner = Scanner(
        root,
        common,
        common,
        home,
        remote="origin",
        agent=root.name,
        denial=Denial(),
        coordination_branch="coordination",
        timeout_s=60,
    )
    return scanner, home


async def measured(what: str, act: Callable[[], Awaitable[T]], rounds: int = ROUNDS) -> T:
    """Do it some times; print the median of processor and wall time."""
    cpu, wall = [], []
    for _ in range(rounds):
        before, began = os.times(), time.perf_counter()
        result = await act()
        after = os.times()
        cpu.append(sum(after[:4]) - sum(before[:4]))
        wall.append(time.perf_counter() - began)
    took = statistics.median(wall)
    print(f"{what:<58} {1000 * statistics.median(cpu):8.0f} ms CPU {1000 * took:8.0f} ms wall")  # noqa: T201
    if "at rest" in what:
        pause = max(INTERVAL_S, min(MAX_PAUSE_S, LOOK_SHARE * took))
        print(f"{'  so a daemon that rests takes of one core':<58} {100 * statistics.median(cpu) / (pause + took):8.2f} %")  # noqa: T201
    return result


def edit(root: Path, number: int, line: int, text: str) -> None:
    """Change one line of a file."""
    path = root / name_of(number)
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = f"{text}\n"
    path.write_text("".join(lines))


async def main(files: int) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="bench-diffs-") as place:
        folder = Path(place)
        ann, ben = make(folder, files)
        print(f"{files} files")  # noqa: T201
        (scanner, home), (other, other_home) = scanner_of(ann, folder), scanner_of(ben, folder)
        await home.prepare()
        await other_home.prepare()
        await measured("first look", scanner.look, 1)
        await measured("look at rest, nothing changed", scanner.look)
        edits = iter(range(1_000_000))

        async def after_edit() -> object:
            edit(ann, 7, 5, f"ann {next(edits)}")
            return await scanner.look()

        await measured("look after one edit", after_edit)
        for number in range(100, 200):
            edit(ann, number, 5, "ann")
        await measured("look after a hundred more files have changed", scanner.look, 1)
        time.sleep(2.1)  # until what was written just now is not looked at again
        await scanner.look()
        await measured("look at rest, 101 files changed", scanner.look)
        for number in (7, 150, 9_000 % files):
            edit(ben, number, 5, "ben")
        theirs, mine = (await other.look()).work, await scanner.look()
        assert theirs is not None
        foresight = Foresight(home)
        found = await measured("forecast: 101 files here, 3 there, 2 in conflict", lambda: foresight.foretell(mine, theirs, ann))
        assert [conflict.path for conflict in found] == sorted([name_of(7), name_of(150)])
        before = os.times()
        for _ in range(ROUNDS):
            git(ann, "--no-optional-locks", "status", "--porcelain", "--untracked-files=all")
        after = os.times()
        print(f"{'git status alone':<58} {1000 * (sum(after[:4]) - sum(before[:4])) / ROUNDS:8.0f} ms CPU")  # noqa: T201


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else FILES)
