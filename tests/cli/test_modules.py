"""Every command's function is where the command line looks for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from sudocode_coordination.cli import drafting, guard, init, messages
from sudocode_coordination.cli.parser import build_parser
from sudocode_coordination.cli.run import command


def _runs(parser: argparse.ArgumentParser) -> Iterator[str]:
    run = parser.get_default("run")
    if run is not None:
        yield run
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _runs(one)


ALL = sorted(set(_runs(build_parser())) - {"sim", "replay", "help"})


@pytest.mark.parametrize("name", ALL)
def test_a_command_has_its_function(name: str) -> None:
    assert callable(command(name))


def test_they_are_the_ones_of_their_modules() -> None:
    assert command("init") is init.init
    assert command("guard check") is guard.guard_check
    assert command("say") is messages.say
    assert command("draft commit") is drafting.draft_commit
