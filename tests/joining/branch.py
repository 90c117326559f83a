"""What a maintainer does: changes on the coordination branch and on the default branch, and rights on the remote."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.e2e.clones import Clone, wait_for

PEERS: Final = ".sudocode/coordination/peers"
SOON: Final = ("--discovery-interval", "1s", "--heartbeat", "500ms")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


class Maintainer:
    """Somebody with a clone and no daemon."""

    def __init__(self, folder: Path) -> None:
        self.remote = folder / "remote.git"
        self.folder = folder / "first"

    def files(self) -> dict[str, bytes]:
        """The records on the branch."""
        listed = subprocess.run(
            ["git", "ls-tree", "--name-only", f"coordination:{PEERS}"], cwd=self.remote, capture_output=True, text=True, check=False
        ).stdout.split()
        return {name: self.blob(f"coordination:{PEERS}/{name}") for name in listed}

    def blob(self, spec: str) -> bytes:
        return subprocess.run(["git", "cat-file", "blob", spec], cwd=self.remote, capture_output=True, check=True).stdout

    def change(self, changes: Mapping[str, bytes | None]) -> None:
        """Write or remove records by hand, until the push gets through."""

        wait_for("there is a branch", self.files, 30)

        def tried() -> bool:
            git(self.folder, "fetch", "-q", "origin", "coordination")
            git(self.folder, "checkout", "-q", "--detach", "FETCH_HEAD")
            for name, data in changes.items():
                path = self.folder / PEERS / name
                if data is None:
                    path.unlink(missing_ok=True)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
            git(self.folder, "add", "-A", ".")
            git(self.folder, "commit", "-q", "--allow-empty", "-m", "by hand")
            pushed = subprocess.run(["git", "push", "-q", "origin", "HEAD:coordination"], cwd=self.folder, capture_output=True)
            return pushed.returncode == 0

        wait_for("the push by hand", tried, 30)

    def commit(self, files: Mapping[str, str]) -> str:
        """Push a commit with these files to the default branch."""
        git(self.folder, "fetch", "-q", "origin", "main")
        git(self.folder, "checkout", "-q", "--detach", "FETCH_HEAD")
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        git(self.folder, "add", "-A", ".")
        git(self.folder, "commit", "-q", "-m", "rules")
        git(self.folder, "push", "-q", "origin", "HEAD:main")
        return git(self.folder, "rev-parse", "HEAD").strip()

    def refuse_record(self, name: str) -> Path:
        """From now on the remote takes no push that has that record, as from somebody without the right to push: until the file
        that is returned is removed."""
        mark = self.remote / f"no-{name}"
        mark.touch()
        hook = self.remote / "hooks" / "pre-receive"
        hook.write_text(
            "#!/bin/sh\nwhile read -r old new ref; do\n"
            f'  [ -e "{mark}" ] && [ -n "$(git ls-tree "$new" -- "{PEERS}/{name}" 2>/dev/null)" ] && exit 1\n'
            "done\nexit 0\n",
            "utf-8",
        )
        hook.chmod(0o755)
        return mark


def findings(clone: Clone, name: str) -> list[dict[str, Any]]:
    """What `coord doctor` finds of that name."""
    told = json.loads(clone.coord("doctor", "--json", expect=None).stdout)
    return [finding for finding in told["findings"] if finding["name"] == name]


def peer_id(clone: Clone) -> str:
    return str(clone.json("status")["peerId"])


def reaches(clone: Clone, *names: str) -> bool:
    """Whether exactly these others are connected."""
    linked = {name for name, kind in clone.peers().items() if kind in ("direct", "relayed")}
    return linked == set(names)
