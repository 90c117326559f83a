"""One node, with the branch, its peers and its clients in the hands of a test."""

from __future__ import annotations

from typing import Any

from tests.core.discovery_bench import record

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import CoreRequest
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.io import (
    BranchPublished,
    BranchRead,
    DiskContents,
    Effect,
    Emit,
    FrameReceived,
    Input,
    Listening,
    PeerConnected,
    PeerDisconnected,
    Persist,
    Publish,
    ReadBranch,
    Reply,
    RequestReceived,
    Send,
    Started,
    StoredEnvelope,
    StoredValue,
    Ticked,
)
from sudocode_coordination.core.node import Node
from sudocode_coordination.core.wire import Hello, WireMessage, decode_frame, encode_frame
from sudocode_coordination.errors import error_from_code
from sudocode_coordination.model import Now, PeerId
from sudocode_coordination.sim.identity import SimKeyring

WALL = 1_800_000_000_000
BIRTH = 1_000_000
ANN, BEN = SimKeyring("ann"), SimKeyring("ben")


class NodeBench:
    """A node of the agent "me". The branch answers at once, unless `remote` is off."""

    def __init__(self, *, contents: DiskContents | None = None, start: bool = True, **config: Any) -> None:
        self.keyring = SimKeyring("me")
        self.node = Node(create_default_config("me", **config), self.keyring)
        self.instant = BIRTH
        self.remote = True
        self.branch: dict[str, bytes] = {}
        self.effects: list[Effect] = []
        self.steps: list[list[Effect]] = []
        self._asked = 0
        self._commits = 0
        if start:
            self.begins(contents)

    def begins(self, contents: DiskContents | None, *, listening: bool = True) -> None:
        """The process starts with what is on its disk; None: it is a fresh clone."""
        self.gives(Started(contents=contents or DiskContents(), seed=1, newborn=contents is None))
        if listening:
            self.gives(Listening(addresses=("/ip4/192.0.2.1/tcp/1",)))
        self.passes(1_500)

    @property
    def me(self) -> PeerId:
        return self.keyring.peer_id

    @property
    def now(self) -> Now:
        return Now(self.instant, WALL + self.instant - BIRTH)

    # --- in -----------------------------------------------------------------------------------------------------------

    def gives(self, given: Input) -> list[Effect]:
        """One step; the branch's answers to it are steps of their own."""
        step = self.node.handle(given, self.now)
        self.effects += step
        self.steps.append(step)
        for effect in step:
            if self.remote and isinstance(effect, ReadBranch):
                self.reads()
            elif self.remote and isinstance(effect, Publish):
                self.lands(effect)
        return step

    def reads(self, **others: SimKeyring) -> None:
        """The branch is read; `others`: agents that have got a record since."""
        for agent, key in others.items():
            self.branch[f"agent-{agent}.json"] = record(key, agent, wall_ms=self.now.wall_ms)
        self._commits += 1
        self.gives(BranchRead(commit=f"{self._commits:040x}", records=dict(self.branch)))

    def lands(self, publish: Publish) -> None:
        for name, data in publish.changes.items():
            self.branch.pop(name, None)
            if data is not None:
                self.branch[name] = data
        self._commits += 1
        self.gives(BranchPublished(ticket=publish.ticket, commit=f"{self._commits:040x}"))

    def connects(self, key: SimKeyring, *, incarnation: int = 1) -> None:
        """It is connected, and both have said hello."""
        self.gives(PeerConnected(peer=key.peer_id, address="/x", direction="in"))
        self.hears(key, Hello(incarnation=incarnation))

    def loses(self, key: SimKeyring) -> None:
        self.gives(PeerDisconnected(peer=key.peer_id, reason="reset"))

    def hears(self, key: SimKeyring, *messages: WireMessage) -> list[Effect]:
        return self.gives(FrameReceived(peer=key.peer_id, frame=encode_frame(messages)))

    def passes(self, ms: int, *, late_ms: int = 0) -> None:
        end = self.instant + ms
        while (due := self.node.deadline()) is not None and due <= end:
            self.instant = max(due, self.instant)
            self.gives(Ticked(late_ms=late_ms))
            later = self.node.deadline()
            assert later is None or later > self.instant, "a timer that has run and is still due would spin"
        self.instant = end

    # --- clients ------------------------------------------------------------------------------------------------------

    def puts(self, request: CoreRequest, *, client: int = 1) -> int:
        """A question; its number."""
        self._asked += 1
        self.gives(RequestReceived(client=client, request_id=self._asked, request=request))
        return self._asked

    def answer(self, asked: int) -> Reply | None:
        found = [e for e in self.effects if isinstance(e, Reply) and e.request_id == asked]
        assert len(found) <= 1, "a request is answered once"
        return found[0] if found else None

    def asks(self, request: CoreRequest, *, client: int = 1) -> Any:
        """The answer, which is there at once; the error that it is raised."""
        reply = self.answer(self.puts(request, client=client))
        assert reply is not None
        if reply.error is not None:
            raise error_from_code(reply.error.code, reply.error.message, reply.error.hint)
        return reply.value

    # --- out ----------------------------------------------------------------------------------------------------------

    def of(self, kind: type[Any]) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def said(self, key: SimKeyring) -> list[WireMessage]:
        frames = [e.frame for e in self.of(Send) if e.peer == key.peer_id]
        return [message for frame in frames for message in decode_frame(frame)]

    def events(self, kind: str) -> list[Event]:
        return [e.event for e in self.of(Emit) if e.event.type == kind]

    def disk(self) -> DiskContents:
        """All that was written, as it would be read after a restart."""
        values: dict[tuple[str, str], StoredValue] = {}
        envelopes: dict[tuple[str, int, int], StoredEnvelope] = {}
        for persist in self.of(Persist):
            for operation in persist.operations:
                match operation:
                    case StoredValue(space=space, key=key):
                        values[space, key] = operation
                    case StoredEnvelope(owner=owner, epoch=epoch, seq=seq):
                        envelopes[owner, epoch, seq] = operation
                    case _:
                        pass  # what was forgotten does no harm here
        return DiskContents(envelopes=tuple(envelopes.values()), values=tuple(values.values()), intact=True)
