"""`coord completion SHELL`: the script that makes a shell complete commands, options and paths."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from pathlib import Path
from typing import Final

import shtab

from sudocode_coordination.cli.parser import build_parser
from sudocode_coordination.cli.session import Session

_PATHS: Final = ("PATH", "RESOURCE")
"""Words that are files more often than not."""


def completion(session: Session, args: Namespace) -> int:
    """Write the script; the shell is told to read it (`coord completion --help`)."""
    script = script_for(args.shell, Path(sys.argv[0]).name if sys.argv else "coord")
    if session.screen.as_json:
        session.screen.show({"shell": args.shell, "script": script}, [])
    else:
        sys.stdout.write(script)
    return 0


def script_for(shell: str, prog: str) -> str:
    """Of the whole command line, for a program of this name (`coord` or `sudocode`)."""
    parser = build_parser(prog if prog == "sudocode" else "coord")
    _name_files(parser)
    return shtab.complete(parser, shell).rstrip() + "\n"


def _name_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:  # argparse has no other way to them; shtab takes it too
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                _name_files(one)
        elif action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
