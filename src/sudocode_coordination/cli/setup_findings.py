"""What `coord doctor` says of guards, agents' hooks and MCP servers: which are in place, which are missing, which can't run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sudocode_coordination.api.requests import DoctorFinding
from sudocode_coordination.cli.init import Change, additions, removals
from sudocode_coordination.errors import CoordinationError

_SETTING_UP: Final = "coord init shows what it would write, and writes it when you agree"


def setup_findings(root: Path) -> Iterator[DoctorFinding]:
    """Of the work tree at `root`; agents that are not found here are not told of."""
    try:
        wanted = [change for change in additions(root) if change.name != "config"]
        ours = {change.path for change in removals(root) if change.needed}
    except CoordinationError as error:
        yield DoctorFinding(name="setup", ok=False, message=error.message, hint=error.hint)
        return
    lost = sorted({program for path in ours for program in _programs(path) if not Path(program).exists()})
    for program in lost:
        hint = "coord init --yes writes them anew, with the program that runs now"
        yield DoctorFinding(name="setup", ok=False, message=f"hooks run {program}, which is not there", hint=hint)
    in_place = _names(change for change in wanted if not change.needed or change.path in ours)
    missing = _names(change for change in wanted if change.found and change.needed and change.path not in ours)
    if in_place and not lost:
        yield DoctorFinding(name="setup", ok=True, message=f"in place: {', '.join(in_place)}", hint="")
    if missing:
        yield DoctorFinding(name="setup", ok=True, message=f"not set up: {', '.join(missing)}", hint=_SETTING_UP)


def _names(changes: Iterator[Change]) -> list[str]:
    return list(dict.fromkeys(f"{change.name} ({change.path.name})" for change in changes))


def _programs(path: Path) -> set[str]:
    """Absolute paths of the programs called coord that a file of ours runs."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    with suppress(ValueError, RecursionError):
        return {program for program in _commands(json.loads(text)) if program.startswith("/") and Path(program).name == "coord"}
    quoted = re.findall(r"""(?:"(/[^"\n]*/coord)"|'(/[^'\n]*/coord)'|(?<![\w"'/])(/[^\s"'\n]*/coord)(?=\s))""", text)
    return {next(filter(None, found)) for found in quoted}


def _commands(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        command = value.get("command")
        if isinstance(command, str):
            with suppress(ValueError):
                yield from shlex.split(command)[:1] if " hook " in command else [command]
        elif isinstance(command, list) and command and isinstance(command[0], str):
            yield command[0]
        for one in value.values():
            yield from _commands(one)
    elif isinstance(value, list):
        for one in value:
            yield from _commands(one)
