"""Identities: the key file, and both keyrings against the laws of `ports.Keyring`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sudocode_coordination.adapters import ports
from sudocode_coordination.adapters.clock import BootClock
from sudocode_coordination.adapters.identity import Identity, generate_identity, load_or_create_identity
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.peer_ids import key_from_peer_id, peer_id_from_key
from sudocode_coordination.errors import StorageError
from sudocode_coordination.sim.identity import SimKeyring

MakeKeyring = Callable[[str], ports.Keyring]


def real(name: str) -> ports.Keyring:
    return Identity(name.encode().ljust(32, b"."))


def simulated(name: str) -> ports.Keyring:
    return SimKeyring(name)


both = pytest.mark.parametrize("make", [real, simulated])


@both
def test_signatures_verify_across_keyrings_and_nothing_else_does(make: MakeKeyring) -> None:
    ann, bob = make("ann"), make("bob")
    signature = ann.sign(b"hello")
    assert len(signature) == 64
    assert signature == make("ann").sign(b"hello")
    assert bob.verify(ann.peer_id, b"hello", signature)
    assert ann.verify(ann.peer_id, b"hello", signature)
    assert not bob.verify(ann.peer_id, b"hullo", signature)
    assert not bob.verify(bob.peer_id, b"hello", signature)
    assert not bob.verify(ann.peer_id, b"hello", signature[:-1])
    assert not bob.verify(ann.peer_id, b"hello", bytes(64))


@both
@pytest.mark.parametrize(
    "peer_id",
    ["", "x", "0OIl", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "1" * 60, "z" * 52, "é", "1" * 100_000],
)
def test_ids_without_an_ed25519_key_verify_nothing(make: MakeKeyring, peer_id: str) -> None:
    keyring = make("ann")
    assert not keyring.verify(peer_id, b"hello", keyring.sign(b"hello"))
    assert keyring.public_key_of(peer_id) is None


@both
def test_an_id_holds_its_key(make: MakeKeyring) -> None:
    ann, bob = make("ann"), make("bob")
    assert ann.peer_id.startswith("12D3Koo")
    assert bob.public_key_of(ann.peer_id) == ann.public_key
    assert ann.peer_id != bob.peer_id


@both
def test_the_cache_of_keys_is_bounded(make: MakeKeyring) -> None:
    keyring = make("ann")
    for number in range(3_000):
        keyring.verify(peer_id_from_key(number.to_bytes(32, "big")), b"", bytes(64))
    sizes = [len(value) for value in vars(keyring).values() if isinstance(value, dict)]
    assert sizes
    assert max(sizes) <= 1_024


def test_worlds_do_not_mix() -> None:
    ann = SimKeyring("ann", world=b"one")
    assert ann.peer_id == SimKeyring("ann", world=b"one").peer_id
    assert ann.peer_id != SimKeyring("ann", world=b"two").peer_id
    assert not SimKeyring("bob", world=b"two").verify(ann.peer_id, b"hello", ann.sign(b"hello"))


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_round_trip(key: bytes) -> None:
    assert key_from_peer_id(peer_id_from_key(key)) == key


@given(st.text(max_size=70))
def test_any_text_is_an_id_or_none(text: str) -> None:
    key = key_from_peer_id(text)
    assert key is None or peer_id_from_key(key) == text


def test_ids_are_those_of_libp2p() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    for number in range(20):
        seed = number.to_bytes(32, "little")
        pair = create_new_key_pair(seed)
        identity = Identity(seed)
        assert identity.peer_id == ID.from_pubkey(pair.public_key).to_base58()
        assert identity.public_key == pair.public_key.serialize()
        assert pair.public_key.verify(b"data", identity.sign(b"data"))
        assert identity.verify(identity.peer_id, b"data", pair.private_key.sign(b"data"))


def test_the_file_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    first = load_or_create_identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == 36
    assert load_or_create_identity(path).peer_id == first.peer_id
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity"]


def test_the_file_is_libp2ps_own(tmp_path: Path) -> None:
    from libp2p.identity_utils import load_identity
    from libp2p.peer.id import ID

    path = tmp_path / "identity"
    identity = load_or_create_identity(path)
    assert ID.from_pubkey(load_identity(path).public_key).to_base58() == identity.peer_id


def test_a_readable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    load_or_create_identity(path)
    path.chmod(0o644)
    with pytest.raises(StorageError, match="others may read") as caught:
        load_or_create_identity(path)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"x" * 36, b"\x08\x01\x12\x20" + b"x" * 31, b"\x08\x01\x12\x20" + b"x" * 33])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StorageError, match="damaged") as caught:
        load_or_create_identity(path)
    assert caught.value.hint
    assert path.read_bytes() == content


def test_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    load_or_create_identity(target)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(StorageError):
        load_or_create_identity(link)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(StorageError):
        load_or_create_identity(folder)


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        load_or_create_identity(tmp_path / "missing" / "identity")
    assert caught.value.hint


def test_without_hard_links_it_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "identity"
    assert load_or_create_identity(path).peer_id == load_or_create_identity(path).peer_id


def test_racing_processes_agree(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    program = (
        "import sys, pathlib\n"
        "from sudocode_coordination.adapters.identity import load_or_create_identity\n"
        "sys.stdin.readline()\n"
        "print(load_or_create_identity(pathlib.Path(sys.argv[1])).peer_id)\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = {racer.communicate(timeout=30)[0].strip() for racer in racers}
    assert answers == {load_or_create_identity(path).peer_id}
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity"]


def test_generated_identities_differ() -> None:
    assert generate_identity().peer_id != generate_identity().peer_id
    assert "seed" not in repr(generate_identity())


def test_the_clock_does_not_go_back() -> None:
    clock: ports.Clock = BootClock()
    instants = [clock.instant() for _ in range(1_000)]
    assert instants == sorted(instants)
    now = clock.now()
    assert now.instant >= instants[-1]
    assert now.wall_ms > 1_600_000_000_000


def test_both_keyrings_are_what_the_core_asks_for(tmp_path: Path) -> None:
    rings: list[Keyring] = [load_or_create_identity(tmp_path / "identity.key"), SimKeyring("alice")]
    for ring in rings:
        signature = ring.sign(b"said")
        assert len(signature) == 64
        assert ring.verify(ring.peer_id, b"said", signature)
        assert not ring.verify(ring.peer_id, b"unsaid", signature)
        assert ring.public_key_of(ring.peer_id) == ring.public_key
