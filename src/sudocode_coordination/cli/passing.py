"""Hands other `sudocode` subcommands to the sudocode that is installed beside us."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

NOT_FOUND = 127
"""What shells exit with when there is no such command."""


def pass_on(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Become the next `sudocode` on PATH that is not this one; returns only if there is none."""
    other = next_sudocode(Path(argv[0]), environment.get("PATH", ""))
    if other is not None:
        sys.stdout.flush()
        os.execve(other, [str(other), *argv[1:]], dict(environment))
    sys.stderr.write(
        "error: no other `sudocode` is on PATH\n"
        "hint: this package brings `sudocode coord …` (the same as `coord …`); install sudocode itself for the rest\n"
    )
    return NOT_FOUND


def next_sudocode(own: Path, path: str) -> Path | None:
    """The first executable `sudocode` on PATH that is not ours, by content as well as by place: copies and links of our
    script in other folders would pass on to each other for ever."""
    ours = _resolved(own)
    beside = _resolved(Path(sys.executable).parent / "sudocode")
    for folder in path.split(os.pathsep):
        candidate = Path(folder or ".") / "sudocode"
        if not candidate.is_file() or not os.access(candidate, os.X_OK):
            continue
        if _resolved(candidate) in (ours, beside) or _is_ours(candidate):
            continue
        return candidate
    return None


def _resolved(path: Path) -> str:
    return os.path.realpath(path)


def _is_ours(candidate: Path) -> bool:
    try:
        with candidate.open("rb") as script:
            return b"sudocode_coordination" in script.read(4_096)
    except OSError:
        return False
