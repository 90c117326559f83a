"""The socket: what it answers, and that no client, however it behaves, holds up another."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from tests.daemon.doubles import RawClient, ThreadedServer, serving, wait_for

from sudocode_coordination.api.codec import (
    FAILED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_REQUEST_BYTES,
    PARSE_ERROR,
    UNKNOWN_METHOD,
    Answered,
    Hello,
    Overflowed,
)
from sudocode_coordination.api.events import Event
from sudocode_coordination.core.io import Effect, Input, Reply, RequestReceived
from sudocode_coordination.daemon import server as server_module
from sudocode_coordination.model import Now


@pytest.fixture
def served(short_tmp: Path) -> Iterator[ThreadedServer]:
    with serving(short_tmp) as running:
        yield running


def event(number: int, size: int = 0) -> Event:
    return Event(type="heartbeat-sent", agent_id="a", timestamp="2026-01-01T00:00:00.000Z", data={"count": number, "x": "x" * size})


def still_answers(served: ThreadedServer) -> None:
    with RawClient(served.path) as other:
        other.call("ping", "ping")
        assert other.answer() == Answered("ping", b"{}")


def test_it_says_hello_and_answers(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        assert client.hear() == Hello(api=1, version="0.1.0", pid=os.getpid())
        client.call(1, "check", resources=[["file", "a.py"]])
        assert client.answer() == Answered(1, b'{"conflicts":[],"agentId":""}')
        client.call("two", "peers")
        assert client.answer() == Answered("two", b"[]")


def test_many_in_flight_are_answered_as_they_finish(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        client.call(1, "lease", resources=[["file", "held"]], waitMs=0)
        for number in range(2, 102):
            client.call(number, "ping")
        assert [client.answer().id for _ in range(100)] == list(range(2, 102))
        client.call(102, "cancel", id=1)
        answered = client.answer()
        assert (answered.id, answered.error is not None) == (1, True)
        wait_for(served.cancelled)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"garbage", PARSE_ERROR),
        (b"\xff\xfe", PARSE_ERROR),
        (b"[" * 50_000, INVALID_REQUEST),
        (b'{"a":' * 50_000, PARSE_ERROR),
        (b"[]", INVALID_REQUEST),
        (b"17", INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","method":"peers"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"nonsense"}', UNKNOWN_METHOD),
        (b'{"jsonrpc":"2.0","id":1,"method":"check","params":{"resources":3}}', INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"check","params":{"resources":[],"other":1}}', INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"check","params":[]}', INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"work.set","params":{"metadata":' + b"[" * 50_000 + b"}}", PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"work.set","params":{}}', INTERNAL_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"lease","params":{"resources":[]}}', INVALID_PARAMS),
    ],
)
def test_what_is_no_call_gets_its_error_and_the_connection_goes_on(served: ThreadedServer, line: bytes, code: int) -> None:
    with RawClient(served.path) as client:
        client.say(line + b"\n")
        answered = client.answer()
        assert answered.error is not None
        assert answered.error.code == code
        assert answered.error.data.code
        client.say(b"\r\n \n")
        client.call(9, "ping")
        assert client.answer().id == 9


def test_what_is_out_of_bounds_is_told_in_words(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        for params, message in (
            ({"text": ""}, "text must not be empty"),
            ({"text": "x" * 1_001}, "text must be at most 1000 characters"),
            ({"text": "x", "ttlMs": 10**9}, "ttlMs must be at most 86400000"),
        ):
            client.call(1, "message.send", **params)
            error = client.answer().error
            assert error is not None
            assert error.message == f"message.send: {message}"
            assert error.data.hint


def test_half_lines_and_lines_in_pieces(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        for byte in b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n{"jsonrpc":"2.0","id":2,"method":"pi':
            client.say(bytes([byte]))
        assert client.answer().id == 1
        still_answers(served)
        client.say(b'ng"}\n')
        assert client.answer().id == 2
        client.say(b'{"jsonrpc":"2.0","id":3')
    wait_for(lambda: served.gone(), "the end of the half line")
    still_answers(served)


def test_a_huge_line_ends_its_connection_only(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        client.hear()
        with suppress(BrokenPipeError, ConnectionResetError):
            client.say(b"x" * (3 * MAX_REQUEST_BYTES))
        wait_for(served.gone, "the end of the connection")
    still_answers(served)


def test_disconnecting_is_told_to_the_node(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        client.call(1, "lease", resources=[["file", "held"]], waitMs=0)
        wait_for(served.asked)
        assert served.gone() == []
    wait_for(lambda: served.gone() == [1])


def test_an_answer_that_nobody_reads_is_told_to_the_node(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        client.call(1, "peers")
        client.answer()
        client.call(2, "check", resources=[["file", "a.py"]])
        wait_for(lambda: len(served.asked()) == 2)
        wait_for(lambda: select.select([client.socket], [], [], 0)[0])
    wait_for(lambda: served.gone() == [1])
    assert served.cancelled() == [2]


def test_a_cancellation_that_crosses_the_answer_is_told_to_the_node(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        client.call(1, "check", resources=[["file", "a.py"]])
        assert client.answer().id == 1
        client.call(2, "cancel", id=1)
        client.call(3, "cancel", id=77)
        wait_for(lambda: served.cancelled() == [1])


def test_an_answer_that_was_read_counts_as_received(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        client.call(1, "peers")
        client.answer()
    wait_for(lambda: served.gone() == [1])
    assert served.cancelled() == []


def test_an_answer_to_who_has_gone_is_told_to_the_node(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        client.call(1, "lease", resources=[["file", "held"]], waitMs=0)
        wait_for(served.asked)
    wait_for(lambda: served.gone() == [1])
    served.inside(lambda: served.server.reply(Reply(client=1, request_id=1, value=None)))
    wait_for(lambda: served.cancelled() == [1])


def test_more_clients_than_there_is_room_for(served: ThreadedServer) -> None:
    clients = [RawClient(served.path) for _ in range(300)]
    first = [client.hear() for client in clients]
    served_ones = [client for client, heard in zip(clients, first, strict=True) if isinstance(heard, Hello)]
    refused = [client for client, heard in zip(clients, first, strict=True) if isinstance(heard, Answered)]
    assert (len(served_ones), len(refused)) == (256, 44)
    for heard in first:
        if isinstance(heard, Answered):
            assert heard.error is not None
            assert heard.error.data.code == "daemon-busy"
    for client in refused:
        assert client.hear() is None
        client.socket.close()
    served_ones[50].call(1, "ping")
    assert served_ones[50].answer().id == 1
    for client in served_ones:
        client.socket.close()
    wait_for(lambda: len(served.gone()) == 256)
    still_answers(served)


def test_calls_in_flight_are_limited(served: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CALLS", 5)
    with RawClient(served.path) as client:
        for number in range(6):
            client.call(number, "lease", resources=[["file", "held"]], waitMs=0)
        answered = client.answer()
        assert answered.id == 5
        assert answered.error is not None
        assert (answered.error.code, answered.error.data.code) == (FAILED, "daemon-busy")


def test_events_go_to_who_asked_with_the_last_ones_first(served: ThreadedServer) -> None:
    for number in range(5):
        served.inside(lambda number=number: served.server.emit(event(number)))  # type: ignore[misc]
    with RawClient(served.path) as listener, RawClient(served.path) as other:
        listener.call(1, "events", replay=2)
        assert listener.answer().id == 1
        served.inside(lambda: served.server.emit(event(5)))
        assert [listener.hear() for _ in range(3)] == [event(3), event(4), event(5)]
        other.call(1, "ping")
        assert isinstance(other.hear(), Hello)
        assert isinstance(other.hear(), Answered)


def test_who_does_not_read_events_loses_them_and_holds_up_nobody(served: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_EVENT_BACKLOG_BYTES", 100_000)
    with RawClient(served.path) as slow, RawClient(served.path) as quick:
        slow.call(1, "events")
        quick.call(1, "events")
        for client in (slow, quick):
            assert client.answer().id == 1
        for number in range(2_000):
            served.inside(lambda number=number: served.server.emit(event(number, 1_000)))  # type: ignore[misc]
            if number % 20 == 0:
                for expected in range(max(0, number - 20) + (number > 0), number + 1):
                    got = quick.hear()
                    assert isinstance(got, Event)
                    assert got.data["count"] == expected
        seen = 0
        while isinstance(got := slow.hear(), Event):
            assert got.data["count"] == seen
            seen += 1
        assert isinstance(got, Overflowed)
        assert 0 < seen < 2_000
        slow.call(2, "ping")
        assert slow.answer().id == 2


def test_who_reads_no_answers_is_disconnected(served: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_BACKLOG_BYTES", 200_000)
    with RawClient(served.path) as deaf:
        deaf.socket.settimeout(0.2)
        with suppress(TimeoutError, OSError):
            for _ in range(100_000):
                deaf.call(1, "x" * 200)
        wait_for(served.gone, "the end of the connection")
    still_answers(served)


def test_a_flood_of_one_client_holds_up_the_others_by_a_few_calls(served: ThreadedServer) -> None:
    desk = served.node.script

    def slowly(given: Input, now: Now) -> list[Effect]:
        if isinstance(given, RequestReceived) and given.client == 1:
            time.sleep(0.002)
        return desk(given, now)

    served.node.script = slowly
    with RawClient(served.path) as flood, RawClient(served.path) as other:
        assert isinstance(flood.hear(), Hello)
        flood.say(b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"peers"}\n' % number for number in range(800)))
        flood.answer()
        for number in range(5):
            other.call(number, "check", resources=[["file", "a.py"]])
            assert other.answer().id == number
        handled = sum(isinstance(given, RequestReceived) and given.client == 1 for given in served.node.got)
        assert handled < 500, "the others waited for most of the flood"
        assert [flood.answer().id for _ in range(799)] == list(range(1, 800)), "it lost nothing by that"


def test_a_client_that_asks_too_often_is_slowed_and_refused_nothing(
    served: ThreadedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "BURST", 10)
    monkeypatch.setattr(server_module, "CALLS_PER_S", 100)
    with RawClient(served.path) as client:
        assert isinstance(client.hear(), Hello)
        began = time.monotonic()
        for number in range(70):
            client.call(number, "ping")
        assert [client.answer() for _ in range(70)] == [Answered(number, b"{}") for number in range(70)]
        assert time.monotonic() - began > 0.5
    still_answers(served)


def test_stop_is_answered_after_the_node_has_stopped(short_tmp: Path) -> None:
    with serving(short_tmp) as served:
        with RawClient(served.path) as first, RawClient(served.path) as second:
            first.call(1, "ping")
            second.call(7, "stop")
            assert second.answer() == Answered(7, b'{"recordLeft":""}')
            assert second.hear() is None
            assert first.answer().id == 1
            assert first.hear() is None


def test_other_users_are_refused(served: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_peer_uid", lambda _connection: 54_321)
    with RawClient(served.path) as client:
        answered = client.hear()
        assert isinstance(answered, Answered)
        assert answered.error is not None
        assert "another user" in answered.error.message
        assert client.hear() is None


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system does not tell")
def test_the_peers_user_is_known() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert server_module._peer_uid(one) == os.getuid()  # type: ignore[arg-type]


def test_params_may_be_left_out_and_raw_bytes_survive(served: ThreadedServer) -> None:
    with RawClient(served.path) as client:
        client.say(msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "peers"}) + b"\n")
        assert client.answer().result == b"[]"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("work.set", f'{{"metadata":{{"n":{2**64}}}}}'),
        ("work.set", f'{{"metadata":{{"n":[{{"m":-{2**64}}}]}}}}'),
        ("issue.update", f'{{"issueId":"1","fields":{{"n":{"9" * 400}}}}}'),
        ("draft.save", f'{{"kind":"note","target":"","fields":{{"n":{"[" * 200 + "]" * 200}}}}}'),
        ("lease", f'{{"resources":[["file","a"]],"waitMs":{10**30}}}'),
        ("renew", f'{{"resources":[["file","a"]],"ttlMs":{10**30}}}'),
    ],
)
def test_values_that_nothing_can_keep_are_refused(served: ThreadedServer, method: str, params: str) -> None:
    with RawClient(served.path) as client:
        client.say(f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}\n'.encode())
        answer = client.answer()
        assert answer.error is not None
        assert (answer.error.code, answer.error.data.code) == (INVALID_PARAMS, "usage")
    still_answers(served)
