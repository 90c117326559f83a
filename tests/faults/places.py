"""Clones whose state folder is a small disk of its own: a tmpfs in a mount namespace that only its daemon and `coord` in it see."""

from __future__ import annotations

import errno
import json
import subprocess
from io import FileIO
from pathlib import Path
from typing import Any, Final

import psutil
from tests.e2e.clones import COORD, LIMIT_S, LOOPBACK, Clone

MAY_MOUNT: Final = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
"""Whether mount namespaces can be made here: not without root, as a rule."""
HOLD: Final = 'mount -t tmpfs -o "size=$1,mode=0700" none "$2" && echo ready && exec sleep 100000'


class SmallDisk:
    """A clone on such a disk. The namespace lives as long as this."""

    def __init__(self, clone: Clone, size: str) -> None:
        self.clone = clone
        clone.state_dir.mkdir(mode=0o700, exist_ok=True)
        self._holder = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", HOLD, "sh", size, str(clone.state_dir)], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.state_dir = Path(f"/proc/{self._holder.pid}/root{clone.state_dir}")
        """The folder as it is in there, seen from here."""

    def close(self) -> None:
        """End daemon and namespace."""
        try:
            process = psutil.Process(int(json.loads((self.state_dir / "daemon.json").read_text())["pid"]))
            process.terminate()
            process.wait(20)
        except (FileNotFoundError, psutil.NoSuchProcess):
            pass  # it has ended by itself
        finally:
            self._holder.kill()
            self._holder.wait()
            assert self._holder.stdout is not None
            self._holder.stdout.close()

    def run(self, *command: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """A command in there, in the clone."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._holder.pid), "-m", f"--wd={self.clone.folder}", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def json(self, *arguments: str, expect: int | None = 0) -> Any:
        """What `coord … --json` prints in there."""
        return json.loads(self.run(COORD, *arguments, "--json", expect=expect).stdout)

    def start(self, *more: str, expect: int = 0) -> Any:
        """`coord start` in there."""
        return self.json("start", "--agent-id", self.clone.name, "--listen", LOOPBACK, *more, expect=expect)

    def fill(self) -> Path:
        """Write until nothing fits; the file that takes it all."""
        filler = self.state_dir / "filler"
        with filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                while _fits(file, b"x" * size):
                    pass
        return filler


def _fits(file: FileIO, data: bytes) -> bool:
    try:
        return file.write(data) == len(data)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
