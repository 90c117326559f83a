"""One run of `coord`: parse, do, and turn whatever happens into an exit code."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, TypeAlias

from sudocode_coordination.cli.parser import build_parser
from sudocode_coordination.cli.screen import NOBODY_READS, Screen, drop_output, prepare_streams
from sudocode_coordination.cli.session import Session
from sudocode_coordination.errors import CoordinationError

Command: TypeAlias = Callable[[Session, Namespace], int]
USAGE = 2

_ELSEWHERE: Final = {
    "start": "lifecycle",
    "stop": "lifecycle",
    "events": "events",
    "doctor": "doctor",
    "demo": "demo",
}
"""Commands whose function is not in `commands.py`, with their module."""


def run(argv: Sequence[str], prog: str = "coord") -> int:
    """Do what the arguments say; the exit code."""
    prepare_streams()
    screen = Screen(as_json="--json" in argv)
    try:
        try:
            return _run(list(argv), prog, screen)
        except CoordinationError as error:
            screen.error(error)
            return error.exit_code
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return NOBODY_READS


def _run(argv: list[str], prog: str, screen: Screen) -> int:
    if argv[:1] == ["sim"]:
        os.execv(sys.executable, [sys.executable, "-m", "sudocode_coordination.sim", *argv[1:]])
    parser = build_parser(prog)
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    try:
        args = parser.parse_args(argv)
    except SystemExit as done:  # --help and --version have printed what was asked for
        return done.code if isinstance(done.code, int) else 0
    if args.command is None:
        parser.print_help(sys.stderr)
        return USAGE
    session = Session(screen, getattr(args, "agent", None))
    try:
        return command(args.run)(session, args)
    finally:
        session.close()


def command(name: str) -> Command:
    """The function of a command, its module loaded now: most commands need few of them."""
    module = import_module(f"sudocode_coordination.cli.{_ELSEWHERE.get(name, 'commands')}")
    function: Command = getattr(module, name.replace(" ", "_"))
    return function
