"""No secret where others may read it: a daemon with a known key and a password in the URL of its remote, and all that it leaves."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest
from tests.e2e.clones import Clone, repository, wait_for

from sudocode_coordination.adapters.identity import Identity, load_or_create_identity

SEED: Final = bytes(range(100, 132))
PASSWORD: Final = "s3cret-Passw0rd"
TELLING_SSH: Final = f"""#!{sys.executable}
# Stands for ssh: notes what it was given, and runs the command here.
import os, sys
with open({{notes!r}}, "ab") as notes:
    for pid in (os.getpid(), os.getppid()):
        for name in ("cmdline", "environ"):
            with open(f"/proc/{{{{pid}}}}/{{{{name}}}}", "rb") as file:
                notes.write(file.read() + b"\\0\\n")
os.execv("/bin/sh", ["/bin/sh", "-c", sys.argv[-1]])
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")


def forms(secret: bytes) -> list[bytes]:
    """How it might be written."""
    spoken = (base64.b64encode(secret), base64.urlsafe_b64encode(secret), repr(secret).encode(), json.dumps(list(secret)).encode())
    encoded = [secret, secret.hex().encode(), secret.hex().upper().encode(), *(form.rstrip(b"=") for form in spoken)]
    return [*encoded, json.dumps(list(secret), separators=(",", ":")).encode()]


@pytest.fixture
def ann() -> Iterator[Clone]:
    with repository("ann") as (clone,):
        base = clone.folder.parent
        ssh = base / "ssh"
        ssh.write_text(TELLING_SSH.format(notes=str(base / "notes")))
        ssh.chmod(0o755)
        clone.git("config", "core.sshCommand", str(ssh))
        clone.git("remote", "set-url", "origin", f"ssh://ann:{PASSWORD}@shop.invalid{base}/remote.git")
        clone.state_dir.mkdir(mode=0o700)
        key = clone.state_dir / "identity.key"
        key.touch(mode=0o600)
        key.write_bytes(bytes((0x08, 0x01, 0x12, 0x20)) + SEED)
        assert load_or_create_identity(key).peer_id == Identity(SEED).peer_id
        yield clone


def test_neither_key_nor_password_is_anywhere_else(ann: Clone) -> None:
    ann.start()
    notes = ann.folder.parent / "notes"
    wait_for("the record is pushed", lambda: ann.json("status")["remote"]["pushes"])
    ann.coord("lease", "src/auth.py", "--strict")
    ann.coord("work", "set", "--file", "src/auth.py")
    daemon = psutil.Process(ann.pid)
    shown = [" ".join(daemon.cmdline()).encode(), json.dumps(daemon.environ()).encode()]
    remote = ann.folder.parent / "remote.git"
    remote.rename(remote.with_name("away.git"))
    said = [
        ann.coord(*command, expect=None).stdout.encode() + ann.coord(*command, expect=None).stderr.encode()
        for command in (("doctor",), ("doctor", "--json"), ("status", "--json"), ("peers", "--json"), ("events", "--last", "1000"))
    ]
    assert b"shop.invalid" in said[0], "the remote is shown, without its password"
    remote.with_name("away.git").rename(remote)
    said.append(ann.coord("stop").stdout.encode())

    children = notes.read_bytes()
    assert b"git-upload-pack" in children
    assert b"git-receive-pack" in children
    files = [path for path in ann.state_dir.rglob("*") if path.is_file() and path.name != "identity.key"]
    assert {"daemon.log", "journal.0", "state.db"} <= {path.name for path in files}
    everything = {str(path): path.read_bytes() for path in files}
    everything |= {"children": children, "process": b"\n".join(shown), "said": b"\n".join(said)}
    everything["branch"] = ann.git("--git-dir", str(remote), "log", "-p", "--all").encode()
    # Git itself tells ssh where to go, and how to get there has to be known to the repository of the table.
    settings = ann.state_dir / "leases.git" / "config"
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    for where, content in everything.items():
        for form in forms(SEED):
            assert form not in content, f"the private key is in {where}"
        told = where in ("children", str(settings))
        assert told or PASSWORD.encode() not in content, f"the password of the remote is in {where}"


def test_the_key_file_is_closed_from_its_first_moment(ann: Clone) -> None:
    key = ann.state_dir / "identity.key"
    key.unlink()
    old = os.umask(0)
    try:
        ann.start()
    finally:
        os.umask(old)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    open_to_others = [path.name for path in ann.state_dir.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert [name for name in open_to_others if "leases.git" not in name] == []
    assert stat.S_IMODE(ann.state_dir.stat().st_mode) == 0o700
