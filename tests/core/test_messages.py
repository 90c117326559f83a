"""What agents say to each other: for whom it is, that it is read once, that it ends."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from tests.core.test_agents import Document

from sudocode_coordination.api.requests import SendMessage
from sudocode_coordination.core import messages as messages_module
from sudocode_coordination.core.facts import EntryChange, Notify, Output, Root, Write
from sudocode_coordination.core.messages import DAY_MS, Messages
from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import AgentId, Instant, Json, Message, Now, PeerId, Resource

WALL = 1_800_000_000_000
FILE = Resource("file", "src/a.py")


class Clone:
    """The messages of one peer, on a document that peers share."""

    def __init__(self, name: PeerId, document: Document, *agents: AgentId, seed: int = 1) -> None:
        self.name = name
        self.agents = agents
        self.document = document
        self.on: dict[Resource, frozenset[AgentId]] = {}
        self.instant = 1_000
        self.wall = WALL
        self.notes: list[Notify] = []
        self.machine = Messages(name, document, Random(seed), self._concerned)

    def _concerned(self, resource: Resource, _: Instant) -> frozenset[AgentId]:
        return self.on.get(resource, frozenset())

    @property
    def now(self) -> Now:
        return Now(self.instant, self.wall)

    def restarts(self) -> None:
        self.machine = Messages(self.name, self.document, Random(99), self._concerned)
        self.does(self.machine.started(self.now))

    def does(self, outputs: list[Output], *others: Clone) -> None:
        """Write what is to be written; everybody hears of it."""
        for output in outputs:
            if isinstance(output, Write):
                self.writes(output.key, output.value, *others)
            elif isinstance(output, Notify):
                self.notes.append(output)

    def writes(self, key: str, value: Json, *others: Clone) -> None:
        if value is None:
            self.document.all.pop(("messages", self.name, key), None)
        else:
            self.document.all["messages", self.name, key] = value
        for clone in (self, *others):
            clone.does(clone.machine.entries_changed(self.name, (_change(key, value),), clone.now, clone.agents))

    def says(self, agent: AgentId, text: str, *others: Clone, to: tuple[AgentId, ...] = (), **fields: Json) -> Message:
        message, outputs = self.machine.send(agent, SendMessage(text=text, **fields), to, self.now)
        self.does(outputs, *others)
        return message

    def reads(self, agent: AgentId, *others: Clone, ids: tuple[str, ...] = ()) -> list[str]:
        read, outputs = self.machine.acknowledge(agent, ids, not ids, self.now)
        self.does(outputs, *others)
        return [message.text for message in read]

    def texts(self, agent: AgentId, *, everything: bool = False) -> list[str]:
        return [message.text for message in self.machine.messages(agent, self.now, everything=everything)]

    def told(self, kind: str) -> list[AgentId | None]:
        return [note.agent_id for note in self.notes if note.type == kind]


def _change(key: str, value: Json) -> EntryChange:
    return EntryChange(root="messages", key=key, value=value)


@pytest.fixture
def pair() -> tuple[Clone, Clone]:
    document = Document()
    return Clone("pa", document, "alice", "ann"), Clone("pb", document, "bob", "ben", seed=2)


def test_a_message_for_everybody_is_for_all_but_who_said_it(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    a.says("alice", "hello", b)
    assert a.texts("alice") == []
    assert [a.texts("ann"), b.texts("bob"), b.texts("ben")] == [["hello"]] * 3
    assert a.told("message-received") == ["ann"]
    assert b.told("message-received") == ["bob", "ben"]


def test_a_message_to_some_is_for_them_alone(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    a.says("alice", "psst", b, to=("bob",))
    assert (b.texts("bob"), b.texts("ben"), a.texts("ann")) == (["psst"], [], [])
    assert b.told("message-received") == ["bob"]


def test_a_message_on_a_resource_is_for_all_on_it_also_for_who_comes_later(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    b.on[FILE] = frozenset(("ben",))
    a.says("alice", "moving it", b, resource=FILE)
    assert (b.texts("bob"), b.texts("ben")) == ([], ["moving it"])
    b.on[FILE] = frozenset(("bob", "ben"))
    assert b.texts("bob") == ["moving it"]


def test_who_has_read_it_sees_it_no_more_as_new_and_its_sender_is_told(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    said = a.says("alice", "hello", b)
    assert b.reads("bob", a) == ["hello"]
    assert (b.texts("bob"), b.texts("ben")) == ([], ["hello"])
    assert b.texts("bob", everything=True) == ["hello"]
    assert b.reads("bob", a) == []
    assert a.told("message-acknowledged") == ["alice"]
    [shown] = a.machine.messages("alice", a.now, everything=True)
    assert (shown.message_id, shown.acknowledged_by, shown.mine) == (said.message_id, ("bob",), True)


def test_what_was_read_stays_read_over_a_restart(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    a.says("alice", "hello", b)
    b.reads("bob", a)
    b.restarts()
    assert (b.texts("bob"), b.texts("ben")) == ([], ["hello"])


def test_a_message_is_over_after_its_ttl_and_what_says_that_it_was_read_goes_with_it(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    a.says("alice", "hello", b, ttl_ms=5_000)
    b.reads("bob", a)
    assert a.machine.deadline() == 6_000
    a.instant = b.instant = 6_000
    assert b.texts("ben") == [], "whoever is cut off from its author does not wait for it"
    a.does(a.machine.ticked(a.now), b)
    assert a.document.all == {}
    assert a.machine.deadline() is None


def test_of_an_author_that_restarts_a_message_ends_when_it_would_have(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    a.says("alice", "hello", b, ttl_ms=60_000)
    a.instant, a.wall = 500, a.wall + 20_000
    a.restarts()
    assert a.machine.deadline() == 40_500
    a.wall -= DAY_MS  # its clock was set back: no longer than the ttl
    a.restarts()
    assert a.machine.deadline() == 60_500


def test_an_answer_names_what_it_answers(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    asked = a.says("alice", "when?", b, to=("bob",))
    found = b.machine.find(asked.message_id)
    assert found is not None
    assert found.agent_id == "alice"
    b.says("bob", "soon", a, to=("alice",), reply_to=asked.message_id)
    [answer] = a.machine.messages("alice", a.now)
    assert (answer.text, answer.reply_to) == ("soon", asked.message_id)


def test_nobody_reads_what_is_not_for_it(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    said = a.says("alice", "psst", b, to=("bob",))
    with pytest.raises(UsageError, match="no message for ben"):
        b.reads("ben", a, ids=(said.message_id,))
    with pytest.raises(UsageError, match="no message for alice"):
        a.reads("alice", b, ids=(said.message_id,))


def test_messages_are_bounded(pair: tuple[Clone, Clone], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_module, "MAX_LIVE", 2)
    a, b = pair
    a.says("alice", "one", b)
    a.says("alice", "two", b)
    with pytest.raises(UsageError, match="2 messages of this clone"):
        a.says("alice", "three", b)
    # A clone that keeps no bounds: the rest is not shown, and nothing is remembered of it.
    for number in range(3):
        a.writes(f"more-{number}", a.document.all["messages", "pa", next(k for _, o, k in a.document.all if o == "pa")], b)
    assert len(b.texts("bob")) == 2


def test_what_is_no_message_is_passed_over(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    for number, value in enumerate(
        ({}, [], "x", {"sender": 1}, {"sender": "a", "text": "t", "sentAt": "", "sentMs": "x", "ttlMs": 1})
    ):
        a.writes(f"{number}", value, b)
    for key in ("ack|", "ack|pb", "ack|pa|x|y", "ack|pa|0"):
        a.writes(key, {"at": "x"}, b)
    assert b.texts("bob", everything=True) == []
    b.restarts()
    assert b.notes == []


def test_acknowledgements_of_what_is_long_over_go_at_a_start(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    a.says("alice", "hello", b)
    b.reads("bob")
    a.document.all = {name: value for name, value in a.document.all.items() if name[1] == "pb"}  # its author is gone for good
    b.restarts()
    assert len(b.document.all) == 1
    b.wall += 3 * DAY_MS
    b.restarts()
    assert b.document.all == {}


def test_one_look_goes_over_what_is_written_once_however_much_is_acknowledged(
    pair: tuple[Clone, Clone], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    for number in range(20):
        a.says("alice", f"{number}", b)
    for number in range(200):
        a.writes(f"ack|pb|{number}|x", {"at": "2027"}, b)
    looked_at = 0
    entries = b.document.entries

    def counted(root: Root) -> Iterator[tuple[PeerId, str, Json]]:
        nonlocal looked_at
        for entry in entries(root):
            looked_at += 1
            yield entry

    monkeypatch.setattr(b.document, "entries", counted)
    assert len(b.texts("bob", everything=True)) == 20
    assert looked_at == 220
    assert len(b.reads("bob", a)) == 20
    assert {by for one in a.machine.messages("alice", a.now, everything=True) for by in one.acknowledged_by} == {"bob"}


ENTRY: dict[str, Json] = {"sender": "carol", "text": "t", "sentAt": "2027", "sentMs": 1, "ttlMs": 3_600_000}


def test_so_many_are_believed_of_a_peer_after_a_restart_too(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    for number in range(messages_module.MAX_LIVE + 50):
        a.writes(f"{number}", ENTRY, b)
    assert len(b.texts("bob")) == messages_module.MAX_LIVE
    b.restarts()
    assert len(b.texts("bob")) == messages_module.MAX_LIVE


def test_so_many_readers_are_believed_of_a_peer(pair: tuple[Clone, Clone], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_module, "MAX_READERS", 2)
    a, b = pair
    said = a.says("alice", "hello", b)
    for number in range(5):
        b.writes(f"ack|pa|{said.message_id}|b{number}", {"at": "2027"}, a)
    assert a.machine.messages("alice", a.now, everything=True)[0].acknowledged_by == ("b0", "b1")


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("$(touch x)", ENTRY),
        ("", ENTRY),
        ("a" * 65, ENTRY),
        ("1", ENTRY | {"sender": "\x1b[31mben"}),
        ("1", ENTRY | {"sender": ""}),
    ],
)
def test_what_no_clone_writes_is_no_message(pair: tuple[Clone, Clone], key: str, entry: Json) -> None:
    a, b = pair
    a.writes(key, entry, b)
    assert b.texts("bob") == []


def test_a_copied_id_does_not_keep_the_real_one_from_being_read(pair: tuple[Clone, Clone]) -> None:
    a, b = pair
    mallory = Clone("pm", a.document, "mallory", seed=3)
    said = a.says("alice", "the real one", b, mallory)
    mallory.writes(said.message_id, ENTRY | {"text": "a copy", "sentAt": "2099"}, a, b)
    assert sorted(b.reads("bob", a, mallory, ids=(said.message_id,))) == ["a copy", "the real one"]
    assert b.texts("bob") == []
    assert b.texts("bob", everything=True) == ["the real one", "a copy"]
    assert [m.acknowledged_by for m in b.machine.messages("bob", b.now, everything=True)] == [("bob",), ("bob",)]
