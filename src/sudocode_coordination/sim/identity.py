"""Identities of a simulated world: peer ids that look like real ones, signatures that cost next to nothing.

Nobody inside the world can forge a signature by chance; it is no cryptography, since the world's secret is known.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from sudocode_coordination.core.peer_ids import KEY_BYTES, encode_public_key, key_from_peer_id, peer_id_from_key
from sudocode_coordination.model import PeerId

_SIGNATURE_BYTES: Final = 64
_MAX_CACHED_SECRETS: Final = 1_024
"""As many as the real keyring keeps."""


class SimKeyring:
    """`ports.Keyring`: the same name in the same world is always the same peer."""

    def __init__(self, name: str, *, world: bytes = b"world") -> None:
        self._world = blake2b(world, digest_size=32).digest()
        raw = blake2b(name.encode(), key=self._world, digest_size=KEY_BYTES).digest()
        self._peer_id = peer_id_from_key(raw)
        self._public_key = encode_public_key(raw)
        self._secrets: dict[PeerId, bytes | None] = {}

    def __repr__(self) -> str:
        return f"SimKeyring({self._peer_id})"

    @property
    def peer_id(self) -> PeerId:
        """Own id."""
        return self._peer_id

    @property
    def public_key(self) -> bytes:
        """libp2p's protobuf encoding of the own public key."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """A deterministic signature, 64 bytes."""
        secret = self._secret_of(self._peer_id)
        assert secret is not None  # the own id holds a key: it was made from one
        return blake2b(data, key=secret, digest_size=_SIGNATURE_BYTES).digest()

    def verify(self, peer_id: PeerId, data: bytes, signature: bytes) -> bool:
        """Whether that peer signed it. False for ids that hold no Ed25519 key; never raises."""
        secret = self._secret_of(peer_id)
        return secret is not None and blake2b(data, key=secret, digest_size=_SIGNATURE_BYTES).digest() == signature

    def public_key_of(self, peer_id: PeerId) -> bytes | None:
        """The key that an id holds, in libp2p's encoding."""
        raw = key_from_peer_id(peer_id)
        return None if raw is None else encode_public_key(raw)

    def _secret_of(self, peer_id: PeerId) -> bytes | None:
        if peer_id not in self._secrets:
            if len(self._secrets) >= _MAX_CACHED_SECRETS:
                del self._secrets[next(iter(self._secrets))]
            raw = key_from_peer_id(peer_id)
            self._secrets[peer_id] = None if raw is None else blake2b(raw, key=self._world, digest_size=32).digest()
        return self._secrets[peer_id]
