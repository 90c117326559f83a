"""The identity of a clone as the core needs it; `adapters/ports.py` names it as a port."""

from __future__ import annotations

from typing import Protocol

from sudocode_coordination.model import PeerId


class Keyring(Protocol):
    """The clone's identity, and signatures of others. Pure: the core may call it."""

    @property
    def peer_id(self) -> PeerId:
        """Own id."""

    @property
    def public_key(self) -> bytes:
        """libp2p's protobuf encoding of the own public key."""

    def sign(self, data: bytes) -> bytes:
        """A deterministic signature, 64 bytes."""

    def verify(self, peer_id: PeerId, data: bytes, signature: bytes) -> bool:
        """Whether that peer signed it. False for ids that hold no Ed25519 key."""

    def public_key_of(self, peer_id: PeerId) -> bytes | None:
        """The key that an id holds, in libp2p's encoding."""
