"""Peer ids as libp2p writes them: base58 of an identity multihash that holds the Ed25519 public key itself.

Own code, so that nothing has to import libp2p to know a peer (https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sudocode_coordination.model import PeerId

KEY_BYTES: Final = 32
_ED25519_KEY_PREFIX: Final = bytes((0x08, 0x01, 0x12, KEY_BYTES))
"""Protobuf: field 1 (key type) is 1, Ed25519; field 2 (data) has 32 bytes."""
_IDENTITY_MULTIHASH_PREFIX: Final = bytes((0x00, len(_ED25519_KEY_PREFIX) + KEY_BYTES))
_PREFIX: Final = _IDENTITY_MULTIHASH_PREFIX + _ED25519_KEY_PREFIX
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {character: value for value, character in enumerate(_ALPHABET)}
_ID_BYTES: Final = len(_PREFIX) + KEY_BYTES
_MAX_ID_CHARACTERS: Final = 60
"""Ids of Ed25519 keys have 52; decoding base58 costs the square of the length."""
_MAX_CACHED_IDS: Final = 1_024
"""A few times the largest swarm: every record that is read names its peer."""


def _base58_encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    characters = []
    while number:
        number, digit = divmod(number, 58)
        characters.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(characters))


def encode_public_key(key: bytes) -> bytes:
    """libp2p's protobuf encoding of a raw Ed25519 public key (32 bytes)."""
    return _ED25519_KEY_PREFIX + key


def peer_id_from_key(key: bytes) -> PeerId:
    """The peer id of a raw Ed25519 public key (32 bytes)."""
    return _base58_encode(_PREFIX + key)


@lru_cache(_MAX_CACHED_IDS)
def key_from_peer_id(peer_id: PeerId) -> bytes | None:
    """The raw public key that an id holds; None if it holds no Ed25519 key or is not written canonically."""
    if not 0 < len(peer_id) <= _MAX_ID_CHARACTERS:
        return None
    number = 0
    for character in peer_id:
        digit = _DIGITS.get(character)
        if digit is None:
            return None
        number = number * 58 + digit
    if number >> (8 * _ID_BYTES):
        return None
    data = number.to_bytes(_ID_BYTES, "big")
    if not data.startswith(_PREFIX) or _base58_encode(data) != peer_id:
        return None
    return data[len(_PREFIX) :]
