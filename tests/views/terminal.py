"""A terminal for a program to run in: a pseudo-terminal, and what would be on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import pyte

LIMIT_S: Final = 30.0
_UNKNOWN_TO_PYTE: Final = re.compile(rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p")
"""Questions and modes of newer terminals: one that does not know them ignores them, pyte would print their ends."""


class Terminal:
    """Runs a command in a terminal of that size; `with` ends it."""

    def __init__(self, command: Sequence[str], folder: Path, *, columns: int = 80, lines: int = 24, **environment: str) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = bytearray()
        """All that was written."""
        self._lock = threading.Lock()
        self._fd, child = pty.openpty()
        self._size(columns, lines)
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**kept, "TERM": "xterm-256color", **environment},
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(child)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        self._thread.join(LIMIT_S)
        os.close(self._fd)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """As if a person pulled at the window."""
        with self._lock:
            self.screen.resize(lines, columns)
        self._size(columns, lines)
        self.process.send_signal(signal.SIGWINCH)

    def _read(self) -> None:
        pending = b""
        while True:
            select.select([self._fd], [], [])
            try:
                data = os.read(self._fd, 65_536)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                self.raw += data
                data = pending + data
                # A sequence that is not complete waits for its end.
                at = data.rfind(b"\x1b")
                whole = at < 0 or re.match(rb"\x1b(\[[0-9;?<>=$ ]*[@-~]|[^\[])", data[at:]) is not None
                data, pending = (data, b"") if whole else (data[:at], data[at:])
                self._stream.feed(_UNKNOWN_TO_PYTE.sub(b"", data))

    def press(self, keys: str) -> None:
        """Type this."""
        os.write(self._fd, keys.encode())

    @property
    def lines(self) -> list[str]:
        """What is on the screen."""
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    def until(self, what: str, shown: Callable[[str], object] | str, limit_s: float = LIMIT_S) -> str:
        """The screen, once it shows that."""
        deadline = time.monotonic() + limit_s
        while True:
            text = self.text
            if (shown in text) if isinstance(shown, str) else shown(text):
                return text
            assert self.process.poll() is None, f"{what}: it ended with {self.process.returncode}\n{text}"
            assert time.monotonic() < deadline, f"not within {limit_s} s: {what}\n{text}"
            time.sleep(0.02)

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(LIMIT_S)
