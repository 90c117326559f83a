"""What clients say and are told, without sockets; the bytes are those of y-protocols (a real client reads them in test_bridge)."""

from __future__ import annotations

import random

import pytest
from pycrdt import Doc, Map

from sudocode_coordination.bridge import protocol
from sudocode_coordination.bridge.protocol import AsksAwareness, AsksDocument, Other, Shows, State, Writes, decode
from sudocode_coordination.bridge.room import MAX_STATE_CHARS, Client, Room
from sudocode_coordination.core.mirror import Change, Mirror
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import Json

STEP_1 = b"\0\0\1\0"
"""From a client that has nothing."""


class Heard(Client):
    """A client that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        super().__init__(self.messages.append)

    def take(self) -> list[bytes]:
        messages = list(self.messages)
        self.messages.clear()
        return messages

    def states(self) -> list[tuple[int, str]]:
        shown = [decode(message) for message in self.take() if message[0] == 1]
        return [(state.client, state.json) for message in shown if isinstance(message, Shows) for state in message.states]


def new_room() -> Room:
    room = Room("r", Mirror(5))
    room.mirror.change([Change("leases", "a/x", 1)])
    return room


def join(room: Room) -> Heard:
    client = Heard()
    room.joined(client)
    return client


def shows(*states: State) -> bytes:
    return protocol.encode_awareness(states)


def leases(*messages: bytes) -> dict[str, Json]:
    doc: Doc[Map[Json]] = Doc()
    for message in messages:
        said = decode(message)
        assert isinstance(said, Writes)
        doc.apply_update(said.update)
    return dict(doc.get("leases", type=Map).to_py() or {})


def test_who_asks_has_the_document_and_then_what_changes() -> None:
    room = new_room()
    asks, waits = join(room), join(room)
    asks.take()
    waits.take()
    room.heard(asks, STEP_1)
    update = room.mirror.change([Change("leases", "a/y", 2)])
    assert update is not None
    room.changed(update)
    assert leases(*asks.take()) == {"a/x": 1, "a/y": 2}
    assert waits.take() == []


@pytest.mark.parametrize("step", [1, 2])
def test_a_write_is_answered_with_why_not_and_nobody_hears_of_it(step: int) -> None:
    room = new_room()
    writer, other = join(room), join(room)
    for client in (writer, other):
        room.heard(client, STEP_1)
        client.take()
    doc: Doc[Map[Json]] = Doc()
    doc.get("leases", type=Map)["a/x"] = "stolen"
    update = doc.get_update()
    room.heard(writer, bytes((0, step, len(update))) + update)
    (denied,) = writer.take()
    assert denied[:2] == b"\2\0"
    assert b"read-only" in denied
    assert other.take() == []
    assert room.mirror.content() == {("leases", "a/x"): 1}
    assert writer.refused == 1
    room.heard(writer, b"\0\1\2\0\0")  # "I have nothing that you lack"
    assert writer.take() == []


def test_clients_hear_of_each_other_and_of_the_bridge() -> None:
    room = new_room()
    room.show({"daemon": "up"})
    ann = join(room)
    assert ann.states() == [(5, '{"bridge":{"daemon":"up"}}')]
    room.heard(ann, shows(State(11, 1, '{"name":"ann"}')))
    assert ann.states() == []
    ben = join(room)
    assert ben.states() == [(5, '{"bridge":{"daemon":"up"}}'), (11, '{"name":"ann"}')]
    room.heard(ben, b"\3")
    assert len(ben.states()) == 2
    room.show({"daemon": "gone"})
    assert ben.states() == ann.states() == [(5, '{"bridge":{"daemon":"gone"}}')]
    room.left(ann)
    assert ben.states() == [(11, "null")]
    room.left(ben)
    assert room.clients == set()


def test_nobody_speaks_for_another() -> None:
    room = new_room()
    ann, mallory, looker = join(room), join(room), join(room)
    room.heard(ann, shows(State(11, 1, "{}")))
    looker.take()
    for forged in (
        [State(11, 9, '{"name":"not ann"}')],  # of another connection
        [State(11, 9, "null")],
        [State(5, 9, '{"bridge":{"daemon":"gone"}}')],  # of the bridge
        [State(12, 1, "null")],  # nobody
        [State(13, 1, "{")],  # no JSON: it would break the others
        [State(14, 1, "[" * 100_000)],
        [State(15, 1, '"' + "x" * MAX_STATE_CHARS + '"')],
    ):
        room.heard(mallory, shows(*forged))
    assert looker.states() == []
    room.heard(mallory, shows(State(11, 9, "{}"), State(16, 1, "1"), State(17, 1, "1")))
    assert looker.states() == [(16, "1")]
    room.heard(mallory, shows(State(16, 1, "2")))
    room.heard(mallory, shows(State(16, 0, "null")))
    assert looker.states() == []
    room.heard(mallory, shows(State(16, 1, "null")))
    assert looker.states() == [(16, "null")]
    room.left(mallory)
    assert looker.states() == []
    room.heard(ann, shows(State(11, 2, "[]")))
    assert looker.states() == [(11, "[]")]


def test_messages_are_told_apart() -> None:
    assert decode(b"\0\0\5\2\5\7\6\1") == AsksDocument({5: 7, 6: 1})
    assert decode(b"\0\2\1x") == Writes(b"x")
    assert decode(b"\3") == AsksAwareness()
    assert decode(b"\x63whatever") == Other()
    assert decode(shows(State(2**53 - 1, 3, "é"))) == Shows((State(2**53 - 1, 3, "é"),))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\7",
        b"\0\0\5\1",
        b"\0\2\xff\xff\xff\xff\x0f",
        b"\1\4\1\1\1\1",
        b"\1\5\1\1\1\1\xff",
        b"\0\0\3\xff\xff\x7f",
        b"\0\0\x05\xff\xff\xff\xff\x0f",  # a vector of four thousand million writers
        b"\1\2\xe9\7",  # a thousand and one states
        b"\xff" * 10,
        b"\x80" * 8 + b"\1",
    ],
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_any_bytes_are_a_message_or_refused() -> None:
    dice = random.Random(1)
    room = new_room()
    for _ in range(5_000):
        client = join(room)
        data = bytes(dice.choice((0, 1, 2, 3, 5, 127, 128, 255)) for _ in range(dice.randrange(1, 12)))
        try:
            room.heard(client, data)
        except ProtocolError:
            continue
        finally:
            room.left(client)
    assert room.mirror.content() == {("leases", "a/x"): 1}
