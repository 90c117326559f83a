"""The command `coord watch`. The terminal's library is loaded only when there is a terminal to show something on."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from typing import Final

import anyio

from sudocode_coordination.cli.session import Session
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Now
from sudocode_coordination.views.live import Live
from sudocode_coordination.views.state import Picture

INSTEAD: Final = "`coord watch --json` shows all of it once, `coord events --follow` what happens, `coord status` a summary"
_COUNTS_SUSPEND: Final = getattr(time, "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""As the daemon's clock (`adapters/clock.py`, which loads trio): leases run out while a laptop sleeps."""


def both_clocks() -> Now:
    """Both clocks, read together."""
    return Now(time.clock_gettime_ns(_COUNTS_SUSPEND) // 1_000_000, time.time_ns() // 1_000_000)


def watch(session: Session, args: Namespace) -> int:
    """Show the view until the person leaves it; with `--json` all of it once.

    Raises:
        UsageError: there is no terminal.
        DaemonError: no daemon runs.
    """
    del args
    if session.screen.as_json:
        session.client.ping()
        picture = Picture(both_clocks(), session.agent)
        anyio.run(Live(session.clone, session.agent, picture, both_clocks, lambda: None).once)
        session.screen.document(picture.document(both_clocks()))
        return 0
    where = {"input": sys.stdin, "output": sys.stdout, "error": sys.stderr}
    missing = [name for name, stream in where.items() if not stream.isatty()]
    if missing:
        raise UsageError(f"coord watch needs a terminal, and standard {', '.join(missing)} is none", hint=INSTEAD)
    if os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError("coord watch needs a terminal that can place text (TERM is dumb)", hint=INSTEAD)
    session.client.ping()  # whoever starts it without a daemon is told as by every command
    session.close()
    from sudocode_coordination.views.app import Watch

    app = Watch(session.clone, session.agent, both_clocks)
    code = app.run(mouse=False)
    return app.return_code or 0 if code is None else code
