"""One run of `coord`: parse, do, and turn whatever happens into an exit code."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, TypeAlias

from sudocode_coordination.cli.parser import build_parser
from sudocode_coordination.cli.screen import Screen, output_failed, prepare_streams
from sudocode_coordination.cli.session import Session
from sudocode_coordination.errors import CoordinationError

Command: TypeAlias = Callable[[Session, Namespace], int]
USAGE = 2

_ELSEWHERE: Final = {
    "start": "lifecycle",
    "stop": "lifecycle",
    "events": "events",
    "rotate-key": "rotating",
    "conflicts": "foretold",
    "doctor": "doctor",
    "demo": "demo",
    "push": "pushing",
    "init": "init",
    "completion": "completion",
    "draft commit": "drafting",
    "draft drop": "drafting",
    "guard install": "guard",
    "guard remove": "guard",
    "guard check": "guard",
    "say": "messages",
    "ask": "messages",
    "messages": "messages",
    "ui": "ui",
}
"""Commands whose function is not in `commands.py`, with their module."""
_APART: Final = {"mcp": "mcp.server", "watch": "views.watch", "bridge": "bridge.command"}
"""Commands that are a part of their own, which loads what the rest of the command line does not."""


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
    except OSError as error:
        return output_failed(error)


def _run(argv: list[str], prog: str, screen: Screen) -> int:
    if argv[:1] in (["sim"], ["replay"]):
        os.execv(sys.executable, [sys.executable, "-m", f"sudocode_coordination.{argv[0]}", *argv[1:]])
    parser = build_parser(prog)
    argv, for_git = _of_git_push(argv)
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    try:
        args = parser.parse_args(argv)
    except SystemExit as done:  # --help and --version have printed what was asked for
        return done.code if isinstance(done.code, int) else 0
    if args.command is None:
        parser.print_help(sys.stderr)
        return USAGE
    if for_git is not None:
        args.arguments = for_git
    session = Session(screen, getattr(args, "agent", None))
    try:
        return command(args.run)(session, args)
    finally:
        session.close()


def _of_git_push(argv: list[str]) -> tuple[list[str], list[str] | None]:
    """Of `coord push …` what is ours, and what is git's: argparse would refuse options that it does not know."""
    at = next((i for i, word in enumerate(argv) if not word.startswith("-") and argv[i - 1 : i] != ["--agent"]), None)
    if at is None or argv[at] != "push":
        return argv, None
    own, rest = argv[: at + 1], argv[at + 1 :]
    for_git: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            for_git += [word, *rest]
            break
        if word in ("--json", "--help", "-h") or word.startswith("--agent="):
            own.append(word)
        elif word == "--agent":
            own += [word, *rest[:1]]
            del rest[:1]
        else:
            for_git.append(word)
    return own, for_git


def command(name: str) -> Command:
    """The function of a command, its module loaded now: most commands need few of them."""
    where = _APART.get(name) or f"cli.{_ELSEWHERE.get(name, 'commands')}"
    module = import_module(f"sudocode_coordination.{where}")
    function: Command = getattr(module, name.replace(" ", "_").replace("-", "_"))
    return function
