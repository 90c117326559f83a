"""`coord start`, but the daemon has a fault in it: `python planted.py FAULT start …`. For tests of tests; the product knows
nothing of it.

blind     no claim of another peer counts: it takes what others hold
mute      that a lease was lost or has expired is told to nobody
greedy    nothing in the table of strict leases is in the way of anything

Several at once are joined by `+`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

DAEMON: Final = "--planted-daemon"


def plant(fault: str) -> None:
    """Break one rule of this process's daemon-to-be.

    Raises:
        AttributeError: the rule is not where it was; this file must follow.
    """
    from sudocode_coordination.core import strict_table
    from sudocode_coordination.core.claims import Claims, Known
    from sudocode_coordination.core.facts import Notify
    from sudocode_coordination.core.own_leases import OwnLeases

    match fault:
        case "blind":
            usual = Claims.live

            def own_only(self: Claims, known: Known, now: int) -> bool:
                return known.source == "own" and usual(self, known, now)

            Claims.live = own_only  # type: ignore[method-assign]
        case "mute":
            before = OwnLeases._end

            def quietly(self: OwnLeases, holding: Any, reason: Any, now: Any, *more: Any, **named: Any) -> list[Any]:
                out = before(self, holding, reason, now, *more, **named)
                return [fact for fact in out if not (isinstance(fact, Notify) and fact.type in ("lease-lost", "lease-expired"))]

            OwnLeases._end = quietly  # type: ignore[method-assign]
        case "greedy":
            _ = strict_table.conflict
            strict_table.conflict = lambda entry, claim: False  # noqa: ARG005
        case _:
            raise SystemExit(f"{fault!r} is no fault known here")


def main(arguments: list[str]) -> int:
    """Be `coord` that starts such a daemon, or be that daemon."""
    if arguments[0] == DAEMON:
        from sudocode_coordination.daemon.__main__ import main as daemon

        for fault in arguments[1].split("+"):
            plant(fault)
        return daemon(arguments[2:])
    from sudocode_coordination.cli import lifecycle
    from sudocode_coordination.cli.entry import main as coord
    from sudocode_coordination.place import Clone

    command = lifecycle.daemon_command

    def planted(clone: Clone, flags: Mapping[str, Any], *more: str) -> list[str]:
        usual = command(clone, flags, *more)
        return [usual[0], str(Path(__file__).resolve()), DAEMON, arguments[0], *usual[usual.index("--repository") :]]

    lifecycle.daemon_command = planted
    sys.argv = ["coord", *arguments[1:]]
    return coord()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
