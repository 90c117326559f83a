"""Signed beats by gossip: signs of life of peers that are out of direct reach."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from sudocode_coordination.core.io import Gossip
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.wire import (
    Presence,
    Signed,
    decode_message,
    decode_signed,
    encode_message,
    encode_signed,
)
from sudocode_coordination.errors import ProtocolError
from sudocode_coordination.model import PeerId

PRESENCE_TOPIC: Final = "sudocode/presence"
MAX_PRESENCES: Final = 10_000
"""Peers whose gossiped beats are counted."""
_SIGNED_PREFIX: Final = b"sudocode-coordination/presence/1\0"


class GossipedBeats:
    """Which beat of each peer was heard last: none counts twice."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._heard: dict[PeerId, tuple[int, int]] = {}

    def heard(self, data: bytes, known: Container[PeerId]) -> PeerId | None:
        """Whose sign of life it is, if it is a new one of a known peer."""
        try:
            signed = decode_signed(data)
            message = decode_message(signed.payload)
        except ProtocolError:
            return None
        if not isinstance(message, Presence) or signed.peer not in known or signed.peer == self._keyring.peer_id:
            return None
        beat = (message.incarnation, message.count)
        before = self._heard.get(signed.peer)
        if before is not None and beat <= before:
            return None
        if len(self._heard) >= MAX_PRESENCES:
            self._heard = {peer: last for peer, last in self._heard.items() if peer in known}
        if not self._keyring.verify(signed.peer, _SIGNED_PREFIX + signed.payload, signed.signature):
            return None
        self._heard[signed.peer] = beat
        return signed.peer

    def beat(self, incarnation: int, count: int) -> Gossip:
        """The own one."""
        payload = encode_message(Presence(incarnation=incarnation, count=count))
        signed = Signed(self._keyring.peer_id, payload, self._keyring.sign(_SIGNED_PREFIX + payload))
        return Gossip(topic=PRESENCE_TOPIC, data=encode_signed(signed))
