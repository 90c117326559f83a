"""What one input leads to: writes first, then what is said, then all else."""

from __future__ import annotations

from typing import Final

import msgspec

from sudocode_coordination.core.io import DiskOperation, Effect, Persist, Send
from sudocode_coordination.core.wire import MAX_MESSAGES, End, WireMessage, encode_message
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

    def say(self, peer: PeerId, message: WireMessage) -> None:
        """Once the writes are done."""
        self._said.setdefault(peer, []).append(message)
        if isinstance(message, End):
            self.ends.append((peer, message))

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
