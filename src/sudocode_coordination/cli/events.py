"""`coord events`: the event stream, one JSON document a line, with --json and without."""

from __future__ import annotations

from argparse import Namespace

import msgspec

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import Ping, Subscribe
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.text import json_text
from sudocode_coordination.errors import CoordinationError


def events(session: Session, args: Namespace) -> int:
    """Print the recent events, and with --follow those that come, until Ctrl-C or the daemon's end."""
    if args.follow:
        for event in session.client.events(replay=args.last):
            session.screen.line(_line(event))
    else:
        for event in _recent(session, args.last):
            session.screen.line(_line(event))
    return 0


def _line(event: Event) -> str:
    return json_text(msgspec.to_builtins(event), pretty=False)


def _recent(session: Session, count: int) -> list[Event]:
    """The daemon sends them after the answer to `Subscribe` and before that to a later call: when that has come, all have."""
    found: list[Event] = []

    def heard(event: Event | None, end: CoordinationError | None) -> None:
        del end  # the calls below raise it
        if event is not None:
            found.append(event)

    leave = session.client.connection.listen(heard)
    try:
        session.ask(Subscribe(replay=count))
        session.ask(Ping())
    finally:
        leave()
    return found[:count]
