"""A new key for a clone: the old one is gone from the disk, and the new life can prove that it is the same clone.

    rotated.json    what was handed over to whom: peer id, the id that follows it, and the old key's signature over that
    identity        the key; replaced in one step

Written in this order, each durable before the next. Cut off in between, the clone has its old key, and the note names a
successor that it is not: it is passed over, and dropped by the next rotation.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from sudocode_coordination.adapters.identity import generate_identity, load_or_create_identity, replace_identity
from sudocode_coordination.core.records import Succession, rotation_bytes
from sudocode_coordination.daemon.lifecycle import hold, settle_home, write_private
from sudocode_coordination.errors import StorageError, UsageError
from sudocode_coordination.model import PeerId
from sudocode_coordination.place import IDENTITY_FILE, Clone

ROTATED_FILE: Final = "rotated.json"
MAX_KEPT: Final = 8
"""Former ids whose records this clone removes where it finds them: who rotates more often than it can push is not understood."""


class _Step(msgspec.Struct, frozen=True, rename="camel"):
    peer_id: PeerId
    successor: PeerId
    signature: bytes


def rotate(clone: Clone) -> tuple[PeerId, PeerId]:
    """Give the clone a new key: the old peer id and the new one. Its daemon must not run.

    Raises:
        AlreadyRunningError: it does.
        UsageError: it has no key yet.
        StorageError: the key can't be read or written; the old one is in force then.
    """
    with hold(clone):
        settle_home(clone)
        path = Path(clone.state_file(IDENTITY_FILE))
        if not path.exists():
            raise UsageError("this clone has no key yet", hint="the first coord start makes one")
        old, new = load_or_create_identity(path), generate_identity()
        step = _Step(old.peer_id, new.peer_id, old.sign(rotation_bytes(new.peer_id)))
        chain = [step, *_chain(clone, old.peer_id)][:MAX_KEPT]
        notes = Path(clone.state_file(ROTATED_FILE))
        write_private(notes, msgspec.json.encode(chain))
        _sync(notes)
        replace_identity(path, new)
        return old.peer_id, new.peer_id


def former_lives(clone: Clone, peer: PeerId) -> tuple[Succession, ...]:
    """The ids that this clone had before, the latest first."""
    return tuple(Succession(peer=step.peer_id, signature=step.signature) for step in _chain(clone, peer))


def _chain(clone: Clone, peer: PeerId) -> list[_Step]:
    try:
        steps = msgspec.json.decode(Path(clone.state_file(ROTATED_FILE)).read_bytes(), type=list[_Step])
    except (FileNotFoundError, msgspec.MsgspecError):
        return []  # a damaged note costs no more than old records that age out by themselves
    except OSError as error:
        raise StorageError(f"{clone.state_file(ROTATED_FILE)}: {error.strerror}", hint="check its owner and permissions") from None
    by_successor = {step.successor: step for step in steps[:MAX_KEPT]}
    found: list[_Step] = []
    while (step := by_successor.pop(peer, None)) is not None:
        found.append(step)
        peer = step.peer_id
    return found


def _sync(path: Path) -> None:
    for target, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY)):
        handle = os.open(target, flags | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
