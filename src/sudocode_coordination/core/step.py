"""What one input leads to: writes first, then what is said, then all else."""

from __future__ import annotations

from typing import Final

import msgspec

from sudocode_coordination.core.facts import Output, Say
from sudocode_coordination.core.io import DiskOperation, Effect, Gossip, Persist, Send
from sudocode_coordination.core.wire import MAX_MESSAGES, End, Envelopes, WireMessage, encode_message
from sudocode_coordination.model import PeerId

FRAME_BYTES: Final = 512 << 10
"""Where a step's messages for one peer are cut into frames: half of what a receiver takes."""


class Step:
    """What one input leads to."""

    def __init__(self) -> None:
        self.operations: list[DiskOperation] = []
        self.effects: list[Effect] = []
        self.ends: list[tuple[PeerId, End]] = []
        """What it says of claims that have ended."""
        self._said: dict[PeerId, list[WireMessage]] = {}
        self._places: dict[PeerId, int] | None = None

    def say(self, peer: PeerId, message: WireMessage) -> None:
        """Once the writes are done."""
        self._said.setdefault(peer, []).append(message)
        if isinstance(message, End):
            self.ends.append((peer, message))

    def publish_here(self) -> None:
        """What is published at the end of the step goes before all that is said from now on: it tells of the same things."""
        if self._places is None:
            self._places = {peer: len(messages) for peer, messages in self._said.items()}

    def publish(self, outputs: list[Output]) -> None:
        """What was written in the whole step, as the feed has it. To each peer in the order of its feed, whatever went before."""
        inserted: dict[PeerId, int] = {}
        for output in outputs:
            match output:
                case Say(peer=peer, message=message):
                    messages = self._said.setdefault(peer, [])
                    place = len(messages) if self._places is None else self._places.get(peer, 0) + inserted.get(peer, 0)
                    if any(isinstance(later, Envelopes) for later in messages[place:]):
                        place = len(messages)
                    messages.insert(place, message)
                    inserted[peer] = inserted.get(peer, 0) + 1
                case Persist(operations=operations):
                    self.operations.extend(operations)
                case Gossip():
                    self.effects.append(output)
                case _:
                    raise TypeError(f"a feed is not published by {type(output).__name__}")

    def finish(self) -> list[Effect]:
        """Writes, then messages (they are waited for elsewhere), then the rest."""
        effects: list[Effect] = [Persist(operations=tuple(self.operations))] if self.operations else []
        encoded: dict[int, bytes] = {}
        for peer, messages in self._said.items():
            effects += [Send(peer=peer, frame=frame) for frame in _frames(messages, encoded)]
        return effects + self.effects

    def finish_after_failure(self, untold: list[tuple[PeerId, End]]) -> list[Effect]:
        """The step that handles a failed disk. That a claim has ended needs no disk to vouch for it, and others wait for it: it
        goes out before this step's writes, which may fail as well, with what the step that failed could not say (`untold`)."""
        first = Step()
        for peer, end in dict.fromkeys((*untold, *self.ends)):
            first.say(peer, end)
        return first.finish() + self.finish()


def _frames(messages: list[WireMessage], known: dict[int, bytes]) -> list[bytes]:
    """`known`: by identity, what is encoded already: most of what is said is said to all."""
    frames: list[bytes] = []
    batch: list[msgspec.Raw] = []
    size = 0
    for message in messages:
        encoded = known.get(id(message))
        if encoded is None:
            encoded = known[id(message)] = encode_message(message)
        if batch and (size + len(encoded) > FRAME_BYTES or len(batch) >= MAX_MESSAGES):
            frames.append(msgspec.msgpack.encode(batch))
            batch, size = [], 0
        batch.append(msgspec.Raw(encoded))
        size += len(encoded)
    return [*frames, msgspec.msgpack.encode(batch)]
