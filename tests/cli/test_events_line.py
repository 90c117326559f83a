"""`coord events` without a daemon: the module is a client's, and says so."""

from __future__ import annotations

import json

from sudocode_coordination.api.events import Event
from sudocode_coordination.cli import events


def test_an_event_is_one_line_of_json_whatever_it_holds() -> None:
    event = Event(type="lease-lost", agent_id="a", timestamp="t", data={"note": "two\nlines \x1b[31m ü"})
    line = events._line(event)
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line) == {"type": "lease-lost", "agentId": "a", "timestamp": "t", "data": event.data}
