"""The clone's identity on disk: one Ed25519 key, readable by its owner alone, and the signatures made with it."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from sudocode_coordination.core.peer_ids import KEY_BYTES, encode_public_key, key_from_peer_id, peer_id_from_key
from sudocode_coordination.errors import StorageError
from sudocode_coordination.model import PeerId

SIGNATURE_BYTES: Final = 64
_FILE_PREFIX: Final = bytes((0x08, 0x01, 0x12, KEY_BYTES))
"""libp2p's protobuf around a private Ed25519 seed, as `libp2p.identity_utils.save_identity` writes it: 36 bytes in all."""
_MAX_CACHED_KEYS: Final = 1_024
"""Verify keys kept ready: more than a swarm has peers, few enough that invented ids fill no memory."""


class Identity:
    """`ports.Keyring` of this clone.

    Attributes:
        seed: the private key's 32 bytes; the network adapter needs it for Noise, nobody else should.
    """

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._key = SigningKey(seed)
        raw = bytes(self._key.verify_key)
        self._public_key = encode_public_key(raw)
        self._peer_id = peer_id_from_key(raw)
        self._verify_keys: dict[PeerId, VerifyKey | None] = {}

    def __repr__(self) -> str:
        return f"Identity({self._peer_id})"

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
        return bytes(self._key.sign(data).signature)

    def verify(self, peer_id: PeerId, data: bytes, signature: bytes) -> bool:
        """Whether that peer signed it. False for ids that hold no Ed25519 key; never raises."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        key = self._verify_key(peer_id)
        if key is None:
            return False
        try:
            key.verify(data, signature)
        except (CryptoError, ValueError, TypeError):
            return False
        return True

    def public_key_of(self, peer_id: PeerId) -> bytes | None:
        """The key that an id holds, in libp2p's encoding."""
        raw = key_from_peer_id(peer_id)
        return None if raw is None else encode_public_key(raw)

    def _verify_key(self, peer_id: PeerId) -> VerifyKey | None:
        if peer_id in self._verify_keys:
            return self._verify_keys[peer_id]
        raw = key_from_peer_id(peer_id)
        key = None if raw is None else VerifyKey(raw)
        if len(self._verify_keys) >= _MAX_CACHED_KEYS:
            del self._verify_keys[next(iter(self._verify_keys))]
        self._verify_keys[peer_id] = key
        return key


def generate_identity() -> Identity:
    """A fresh one that is kept nowhere."""
    return Identity(secrets.token_bytes(KEY_BYTES))


def load_or_create_identity(path: Path) -> Identity:
    """The identity in that file; made and written durably if there is none. Two processes that race get the same one.

    Raises:
        StorageError: others may read the file, it is damaged, or it can't be read or written.
    """
    try:
        found = _read(path)
        if found is None:
            _create(path)
            found = _read(path)
    except OSError as error:
        raise StorageError(
            f"the identity file {path} can't be used: {error.strerror or error}",
            hint="check the folder's owner, permissions and free space",
        ) from error
    if found is None:
        raise StorageError(f"the identity file {path} vanished while it was made", hint="is something cleaning that folder?")
    return found


def _read(path: Path) -> Identity | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise StorageError(f"{path} is no plain file", hint="move it away; a new identity will be made")
        if mode & 0o077:
            raise StorageError(
                f"others may read the identity file {path} (mode {stat.S_IMODE(mode):04o})",
                hint=f"if nobody has copied it: chmod 600 {path}; else delete it, and a new identity will be made",
            )
        data = file.read(len(_FILE_PREFIX) + KEY_BYTES + 1)
    if len(data) != len(_FILE_PREFIX) + KEY_BYTES or not data.startswith(_FILE_PREFIX):
        raise StorageError(
            f"the identity file {path} is damaged ({len(data)} bytes)",
            hint="restore it from a backup, or delete it: this clone then joins under a new peer id",
        )
    return Identity(data[len(_FILE_PREFIX) :])


def replace_identity(path: Path, identity: Identity) -> None:
    """Put another identity in the place of the one there, durably, in one step: a reader finds either. The old key is gone with it.

    Raises:
        StorageError: it can't be written; the old one is still there.
    """
    try:
        temporary = _write_beside(path, identity.seed)
        try:
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path)
    except OSError as error:
        raise StorageError(
            f"the identity file {path} can't be replaced: {error.strerror or error}",
            hint="check the folder's owner, permissions and free space",
        ) from error


def _write_beside(path: Path, seed: bytes) -> Path:
    """A temporary file in the same folder, on the disk when it returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(_FILE_PREFIX + seed)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _create(path: Path) -> None:
    temporary = _write_beside(path, secrets.token_bytes(KEY_BYTES))
    try:
        try:
            # A link never replaces: of two processes one gets through, and both read what it wrote.
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:
            # No hard links on this file system. Whoever renames last wins; who reads afterwards reads that.
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
