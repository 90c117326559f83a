"""`python -m sudocode_coordination.replay` (or `coord replay`): how good forecasts would have been on a repository's own merges."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from sudocode_coordination.adapters.gitrun import GitFailedError
from sudocode_coordination.errors import CoordinationError, NotARepositoryError
from sudocode_coordination.place import find_clone
from sudocode_coordination.replay.generator import history
from sudocode_coordination.replay.history import Figures, History, Replayed, figures

MAX_LIMIT: Final = 100_000
MAX_LISTED: Final = 20
"""Merges that were foretold wrongly, as they are listed; `--json` has all."""


def main(arguments: Sequence[str]) -> int:
    """Replay; exit code 1 if it can't be done."""
    parser = argparse.ArgumentParser(
        prog="coord replay",
        description="Take the merges of a history, pretend that neither side had committed, foretell what would not merge, "
        "and compare that with git's own merge: recall and precision by file. Nothing in the repository is changed.",
    )
    parser.add_argument("repository", metavar="REPO", nargs="?", default=".", help="a folder in it (the current one)")
    parser.add_argument("--rev", metavar="REV", default="HEAD", help="where to begin (HEAD)")
    parser.add_argument("--limit", metavar="N", type=_number, default=200, help="the latest N merges (200)")
    parser.add_argument("--branches", action="store_true", help="pairs of branches in place of merges that were made")
    parser.add_argument("--generate", metavar="SEED", type=int, help="a history made by dice in place of a repository")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="coord-replay-") as scratch:
        try:
            if options.generate is not None:
                options.repository, options.rev = _generated(Path(scratch), options.generate, options.limit), "main"
            merges = trio.run(_replay, options, Path(scratch))
        except (CoordinationError, GitFailedError) as error:
            return _failed(error, as_json=options.json)
    _show(merges, as_json=options.json)
    return 0


def _failed(error: CoordinationError | GitFailedError, *, as_json: bool) -> int:
    if isinstance(error, CoordinationError):
        told = {"code": error.code, "message": error.message, "hint": error.hint}
    else:
        told = {"code": "failed", "message": error.reason, "hint": "is the revision there? git log REV"}
    if as_json:
        sys.stdout.write(msgspec.json.encode({"error": told}).decode() + "\n")
    else:
        sys.stderr.write(f"error: {told['message']}\nhint: {told['hint']}\n")
    return 1


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_LIMIT}")
    return int(text)


def _generated(scratch: Path, seed: int, merges: int) -> str:
    folder = scratch / "generated.git"
    subprocess.run(["git", "init", "-q", "--bare", str(folder)], check=True)
    with subprocess.Popen(["git", "fast-import", "--quiet"], cwd=folder, stdin=subprocess.PIPE) as importer:
        assert importer.stdin is not None
        for part in history(seed, merges):
            importer.stdin.write(part)
    if importer.returncode:
        raise GitFailedError("git fast-import did not take the history")
    return str(folder)


async def _replay(options: argparse.Namespace, scratch: Path) -> list[Replayed]:
    if not Path(options.repository).exists():  # else a repository above it would be taken
        raise NotARepositoryError(f"{options.repository} is not there", hint="give a folder of a repository")
    clone = find_clone(options.repository)
    root = None if clone.work_tree is None else Path(clone.work_tree)
    past = History(Path(clone.common_dir), root, scratch / "replay.git")
    await past.prepare()
    pairs = await (past.branches(options.limit) if options.branches else past.merges(options.rev, options.limit))
    return [one async for one in past.replay(pairs)]


def _show(merges: list[Replayed], *, as_json: bool) -> None:
    told = figures(merges)
    if as_json:
        document = {"figures": msgspec.to_builtins(told), "merges": msgspec.to_builtins(merges)}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        return
    sys.stdout.write("\n".join([*_summary(told), *_wrong(merges)]) + "\n")


def _summary(told: Figures) -> list[str]:
    lines = [
        f"{told.merges} merges, {told.in_conflict} of them in conflict; {told.changed_files} files were changed",
        f"files in conflict by git: {told.files_in_conflict}; foretold: {told.foretold}; right: {told.right}",
        f"recall {_percent(told.recall)}, precision {_percent(told.precision)}",
        f"files not shared with content: {told.withheld}; uncertain forecasts: {told.uncertain}, right: {told.uncertain_right}",
        f"a forecast takes {told.median_ms:g} ms (median)",
    ]
    if not told.merges:
        lines = ["0 merges: there is none of two in this history (--branches takes pairs of branches instead)"]
    return [*lines, *([f"{told.troubles} merges could not be foretold"] if told.troubles else [])]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _wrong(merges: list[Replayed]) -> list[str]:
    lines = [
        f"{one.ours[:10]} {one.theirs[:10]}: {what} {path}"
        for one in merges
        for what, paths in (
            ("missed", set(one.found) - set(one.foretold)),
            ("foretold in vain", set(one.foretold) - set(one.found)),
        )
        for path in sorted(paths)
    ]
    more = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], *([f"… and {more} more (--json lists all)"] if more > 0 else [])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
