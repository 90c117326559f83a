"""Who may ask: Host, Origin, one-time codes, sessions."""

from __future__ import annotations

import pytest

from sudocode_coordination.views.web.door import MAX_LINKS, MAX_SESSIONS, Door, Session

PORT = 4711


def headers(session: Session | None = None, **more: str) -> dict[str, str]:
    found = {"host": f"127.0.0.1:{PORT}"}
    if session is not None:
        found |= {"cookie": f"other=1; coord-{PORT}={session.cookie}", "x-coord-key": session.key}
    return found | {name.replace("_", "-"): value for name, value in more.items()}


def entered(door: Door, now: float = 0.0) -> Session:
    session = door.enter(door.new_link(now, 60), now)
    assert session is not None
    return session


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LocalHost:{PORT}", f"[::1]:{PORT}"])
def test_loopback_by_its_names_is_this_server(host: str) -> None:
    assert Door(PORT).refusal("GET", headers(host=host)) is None
    assert Door(PORT).refusal("POST", headers(host=host, origin=f"http://{host}")) is None


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.1", "localhost", "127.0.0.1:4712", f"evil.example:{PORT}", f"127.0.0.1.evil.example:{PORT}", f"0.0.0.0:{PORT}"],
)
def test_a_name_that_was_rebound_to_loopback_is_not(host: str) -> None:
    assert Door(PORT).refusal("GET", headers(host=host)) is not None


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", f"https://127.0.0.1:{PORT}", "http://127.0.0.1:4712", f"http://localhost:{PORT}", ""]
)
def test_another_origin_is_refused_for_reading_too(origin: str) -> None:
    assert Door(PORT).refusal("GET", headers(origin=origin)) is not None
    assert Door(PORT).refusal("POST", headers(origin=origin)) is not None


def test_a_change_without_an_origin_is_refused() -> None:
    assert Door(PORT).refusal("POST", headers()) is not None
    assert Door(PORT).refusal("GET", headers()) is None


def test_only_people_come_from_other_sites() -> None:
    door = Door(PORT)
    assert door.refusal("GET", headers(sec_fetch_site="cross-site", sec_fetch_mode="navigate")) is None
    assert door.refusal("GET", headers(sec_fetch_site="same-origin", sec_fetch_mode="cors")) is None
    for site in ("cross-site", "same-site"):
        assert door.refusal("GET", headers(sec_fetch_site=site, sec_fetch_mode="no-cors")) is not None


def test_a_code_is_good_once_and_for_a_while() -> None:
    door = Door(PORT)
    assert door.enter("guessed", 0) is None
    late = door.new_link(0, 60)
    assert door.enter(late, 60) is None
    session = entered(door)
    assert door.session_of(headers(session)) == session.number
    assert {len(session.cookie), len(session.key)} == {43}, "256 bits in base64"


def test_a_code_that_is_used_twice_shuts_out_both() -> None:
    door = Door(PORT)
    code = door.new_link(0, 60)
    first = door.enter(code, 1)
    assert first is not None
    assert door.session_of(headers(first)) is not None
    assert door.enter(code, 2) is None
    assert door.session_of(headers(first)) is None
    assert not door.is_open(first.number)


def test_cookie_or_key_alone_opens_nothing() -> None:
    door = Door(PORT)
    mine, other = entered(door), entered(door)
    whole = headers(mine)
    assert door.session_of({**whole, "x-coord-key": ""}) is None
    assert door.session_of({**whole, "cookie": ""}) is None
    assert door.session_of({**whole, "x-coord-key": other.key}) is None
    assert door.session_of({**whole, "cookie": f"coord-{PORT + 1}={mine.cookie}"}) is None
    assert door.session_of({**whole, "cookie": "x" * 9_000 + "; " + whole["cookie"]}) is None
    assert door.session_of({**whole, "x-coord-key": "\udcff"}) is None
    door.leave(mine.number)
    assert door.session_of(whole) is None


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites() -> None:
    door = Door(PORT)
    session = entered(door)
    assert door.set_cookie(session) == f"coord-{PORT}={session.cookie}; Path=/; HttpOnly; SameSite=Strict"


def test_secrets_are_not_kept_and_not_shown() -> None:
    door = Door(PORT)
    code = door.new_link(0, 60)
    session = door.enter(code, 0)
    assert session is not None
    kept = repr(vars(door))
    assert all(secret not in kept for secret in (code, session.cookie, session.key))
    assert session.key not in repr(session)
    assert session.cookie not in repr(session)


def test_links_and_sessions_are_few() -> None:
    door = Door(PORT)
    first = door.new_link(0, 60)
    sessions = [entered(door) for _ in range(MAX_SESSIONS + 1)]
    assert door.session_of(headers(sessions[0])) is None
    assert door.session_of(headers(sessions[-1])) is not None
    for _ in range(MAX_LINKS):
        door.new_link(0, 60)
    assert door.enter(first, 1) is None
