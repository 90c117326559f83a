"""Packs made by hand, as git itself reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

import pytest
from tests.conformance.git_bench import git

from sudocode_coordination.adapters.gitobjects import EMPTY, Made, Snapshot, make_commit
from sudocode_coordination.adapters.gitpack import delta, pack_of


def made_on(parent: Snapshot, changes: dict[str, bytes | None], algorithm: str = "sha1") -> Made:
    size = 20 if algorithm == "sha1" else 32
    return make_commit(parent, changes, message="m\n", wall_ms=1000, algorithm=algorithm, sha_size=size)


def applied(old: bytes, instructions: bytes) -> bytes:
    """What a difference makes of `old`, by the description of the format."""
    at = 0

    def size() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = instructions[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    assert size() == len(old)
    wanted = size()
    new = bytearray()
    while at < len(instructions):
        code = instructions[at]
        at += 1
        assert code != 0, "reserved"
        if not code & 0x80:
            new += instructions[at : at + code]
            at += code
            continue
        numbers = []
        for bit in range(7):
            numbers.append(instructions[at] if code & 1 << bit else 0)
            at += bool(code & 1 << bit)
        start, length = int.from_bytes(bytes(numbers[:4]), "little"), int.from_bytes(bytes(numbers[4:]), "little") or 0x10000
        assert start + length <= len(old)
        new += old[start : start + length]
    assert len(new) == wanted
    return bytes(new)


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 255, 256, 257, 65_535, 65_536, 65_537, 131_072, 200_000])
def test_differences_make_the_new_of_the_old(size: int) -> None:
    random = Random(size)
    old = random.randbytes(size)
    for _ in range(6):
        at, gone = random.randrange(size + 1), random.choice([0, 0, 1, 300])
        new = old[:at] + random.randbytes(random.choice([0, 1, 127, 128, 400])) + old[at + gone :]
        assert applied(old, delta(old, new)) == new
    assert applied(old, delta(old, old)) == old
    assert applied(old, delta(old, b"")) == b""
    assert applied(b"", delta(b"", old)) == old
    assert applied(old, delta(old, old + old)) == old + old


def test_a_difference_of_one_entry_is_small() -> None:
    folder = b"".join(b"100644 %064d.json\0%s" % (number, Random(number).randbytes(20)) for number in range(5_000))
    changed = folder[:200_000] + b"x" * 91 + folder[200_000:]
    assert len(delta(folder, changed)) < 200


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("reader", ["unpack-objects", "index-pack"])
def test_git_reads_them(tmp_path: Path, algorithm: str, reader: str) -> None:
    git(tmp_path, "init", "-q", "--bare", f"--object-format={algorithm}", ".")
    command = (
        ["git", "unpack-objects", "-q", "--strict"]
        if reader == "unpack-objects"
        else ["git", "index-pack", "--stdin", "--fix-thin"]
    )
    snapshot = EMPTY
    filled: dict[str, bytes | None] = {f"leases/{n % 2:x}/{n:060}.json": b"%d" % n for n in range(1_500)}
    steps: list[dict[str, bytes | None]] = [
        filled,
        {"meta": b"1", "leases/0/new.json": b"x" * 100_000},
        {"leases/1/" + "0" * 59 + "1.json": None},
        {},
    ]
    for changes in steps:
        made = made_on(snapshot, changes, algorithm)
        pack = pack_of(made, snapshot, algorithm)
        subprocess.run(command, cwd=tmp_path, input=pack, check=True, capture_output=True)
        assert made.snapshot.commit is not None
        git(tmp_path, "update-ref", "refs/heads/main", made.snapshot.commit)
        git(tmp_path, "fsck", "--strict", "--no-dangling")
        snapshot = made.snapshot
    assert len(git(tmp_path, "ls-tree", "-r", "--name-only", "main").splitlines()) == 1_501
