"""`coord leases --history` (cli/history.py): what the table says."""

from __future__ import annotations

import pytest

from sudocode_coordination.cli.history import history_blocks, parse_instant
from sudocode_coordination.cli.screen import plain_lines
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import HistoryEntry, Resource


def entry(**changes: object) -> HistoryEntry:
    values: dict[str, object] = {
        "claim_id": "peer.1.1",
        "peer_id": "peer",
        "agent_id": "ada",
        "resources": (Resource("file", "src/a.py"),),
        "grade": "quorum",
        "granted_at": "2026-01-31T10:00:00.000Z",
        "ended_at": "2026-01-31T10:05:30.000Z",
        "reason": "released",
        "signature": "",
    }
    return HistoryEntry(**{**values, **changes})  # type: ignore[arg-type]


def lines(*entries: HistoryEntry) -> list[str]:
    return [line for block in history_blocks(entries) for line in plain_lines(block)]


def test_what_nobody_can_be_sure_of_is_marked() -> None:
    entries = [entry(), entry(claim_id="peer.1.2", agent_id="bob", ended_at=None, reason="")]
    shown = [line for block in history_blocks(entries, frozenset({"peer.1.2"})) for line in plain_lines(block)]
    assert "not sure" not in shown[1]
    assert "held, not sure" in shown[2]


def test_a_holder_that_vanished_is_told_apart() -> None:
    assert "lapsed" in lines(entry(ended_at=None, reason="", lapsed=True))[1]


def test_a_time_without_a_zone_is_local_and_one_that_is_none_is_told() -> None:
    assert parse_instant("2026-01-31T10:00").isoformat() == "2026-01-31T10:00:00+00:00", "tests run in UTC"
    with pytest.raises(UsageError, match="is no time"):
        parse_instant("yesterday")


@pytest.mark.parametrize("text", ["0001-01-01", "0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00"])
def test_a_time_beyond_all_time_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        parse_instant(text)


def test_the_table() -> None:
    shown = lines(
        entry(),
        entry(agent_id="bob", ended_at=None, reason="", token=17, grade="strict", mode="shared"),
        entry(agent_id="cyd", reason="lost-conflict", rival="dan", commit="a" * 40, branch="feature/x", grade="provisional"),
    )
    assert shown[0].split() == ["AGENT", "RESOURCE", "FROM", "WHEN", "FOR", "END", "GRADE", "LEFT", "BEHIND"]
    assert "5m30s" in shown[1]
    assert "released" in shown[1]
    assert "held" in shown[2]
    assert "strict, token 17, shared" in shown[2]
    assert "lost-conflict (dan)" in shown[3]
    assert "aaaaaaaaaa feature/x" in shown[3]
    assert lines() == ["nobody is known to have held it"]


def test_nothing_of_a_peer_steers_the_terminal() -> None:
    evil = "\x1b[31m\u202e\r\n"
    shown = "\n".join(
        lines(
            entry(
                agent_id=evil,
                resources=(Resource("file", evil),),
                granted_at=evil,
                ended_at=evil,
                reason=evil,
                rival=evil,
                commit=evil,
                branch=evil,
            )
        )
    )
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert shown.count("\n") == 1
