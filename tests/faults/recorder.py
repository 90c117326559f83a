"""Records what a process does to the files of a folder, by `strace`, and makes the folder as it was at any moment of that.

What a killed process leaves is a prefix of its system calls, and of the last one a prefix of its bytes: the pages that it wrote are
the operating system's. Every such prefix can be had from `states`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

STRACE: Final = shutil.which("strace")
_CALLS: Final = "openat,write,pwrite64,ftruncate,unlink,unlinkat,rename,renameat,renameat2,link,linkat,lseek,chmod,fchmod,mkdir"
_LINE: Final = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR: Final = re.compile(r"^(\d+)<([^>]*)>")


@dataclass(frozen=True)
class Change:
    """One system call that changed a file, or told that something was done (`mark`)."""

    call: str
    path: str = ""
    other: str = ""
    data: bytes = b""
    at: int = 0
    mark: str = ""
    mode: int = 0


@dataclass(frozen=True)
class State:
    """The folder at one moment."""

    told: tuple[str, ...]
    """Marks that the process had written to its output by then."""
    files: dict[str, bytes]
    modes: dict[str, int] = field(default_factory=dict)
    after: str = ""
    """The last call, for messages."""

    def make(self, folder: Path) -> None:
        """Put the files there, and nothing else."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
            (folder / name).chmod(self.modes.get(name, 0o600))


def record(code: str, folder: Path, trace: Path) -> list[Change]:
    """Run Python code with the folder as its argument; what it did to files there. Lines that it prints are marks."""
    assert STRACE is not None
    command = [STRACE, "-y", "-xx", "-s", "4000000", "-e", f"trace={_CALLS}", "-o", str(trace)]
    done = subprocess.run(
        [*command, sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(_changes(trace.read_text("ascii").splitlines(), str(folder) + "/"))


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _changes(lines: list[str], folder: str) -> Iterator[Change]:
    places: dict[str, int] = {}
    for line in lines:
        found = _LINE.match(line)
        if found is None or int(found[3]) < 0:
            continue
        call, arguments, result = found[1], found[2], int(found[3])
        texts = [_decoded(text) for text in _TEXT.findall(arguments)]
        paths = [text.decode("utf-8", "surrogateescape") for text in texts]
        names = [path.removeprefix(folder) for path in paths if path.startswith(folder)]
        described = _DESCRIPTOR.match(arguments)
        number = described[1] if described else ""
        target = _path_of(described[2]).removeprefix(folder) if described and _path_of(described[2]).startswith(folder) else ""
        match call:
            case "openat":
                places[str(result)] = 0
                if names and "O_CREAT" in arguments:
                    mode = re.search(r", (0\d+)\)?$", arguments)
                    cut = "cut" if "O_TRUNC" in arguments else "make"
                    yield Change(cut, names[0], mode=int(mode[1], 8) if mode else 0o666)
            case "write" if number == "1":
                yield from (Change("mark", mark=mark) for mark in texts[0].decode().split())
            case "write" if target:
                yield Change("write", target, data=texts[0][:result], at=places.get(number, 0))
                places[number] = places.get(number, 0) + result
            case "pwrite64" if target:
                yield Change("write", target, data=texts[0][:result], at=int(arguments.rsplit(", ", 1)[1]))
            case "lseek" if number:
                places[number] = result
            case "ftruncate" if target:
                yield Change("resize", target, at=int(arguments.rsplit(", ", 1)[1]))
            case "unlink" | "unlinkat" if names:
                yield Change("unlink", names[0])
            case "rename" | "renameat" | "renameat2" if len(names) == 2:
                yield Change("rename", names[0], names[1])
            case "link" | "linkat" if len(names) == 2:
                yield Change("link", names[0], names[1])
            case "chmod" if names:
                yield Change("chmod", names[0], mode=int(arguments.rsplit(", ", 1)[1], 8))
            case "fchmod" if target:
                yield Change("chmod", target, mode=int(arguments.rsplit(", ", 1)[1], 8))
            case _:
                pass


def _path_of(shown: str) -> str:
    return _decoded(shown).decode("utf-8", "surrogateescape") if shown.startswith("\\x") else shown


def states(changes: list[Change], *, every_byte: bool = False) -> Iterator[State]:
    """The folder before the first call, after each, and in the midst of each write: after its first byte, half of it, and all but
    its last, or after each byte. File modes are as asked for: the recorded process has a umask of 0."""
    files: dict[str, bytes] = {}
    modes: dict[str, int] = {}
    told: tuple[str, ...] = ()
    yield State(told, {}, {}, "nothing")
    for number, change in enumerate(changes):
        after = f"call {number}, {change.call} {change.path}"
        match change.call:
            case "mark":
                told = (*told, change.mark)
                continue
            case "write":
                size = len(change.data)
                cuts = range(1, size) if every_byte else sorted({1, size // 2, size - 1} - {0, size})
                for cut in cuts:
                    torn = {**files, change.path: _written(files.get(change.path, b""), change.data[:cut], change.at)}
                    yield State(told, torn, dict(modes), f"{after}, {cut} of {size} bytes")
                files[change.path] = _written(files.get(change.path, b""), change.data, change.at)
            case "make" | "cut":
                if change.path not in files:
                    modes[change.path] = change.mode
                if change.call == "cut" or change.path not in files:
                    files[change.path] = b""
            case "resize":
                files[change.path] = files[change.path][: change.at].ljust(change.at, b"\0")
            case "unlink":
                files.pop(change.path, None)
            case "rename":
                files[change.other] = files.pop(change.path)
                modes[change.other] = modes.pop(change.path)
            case "link":
                files[change.other], modes[change.other] = files[change.path], modes[change.path]
            case "chmod":
                modes[change.path] = change.mode
            case _:
                raise AssertionError(change)
        yield State(told, dict(files), dict(modes), after)


def _written(old: bytes, data: bytes, at: int) -> bytes:
    return old[:at].ljust(at, b"\0") + data + old[at + len(data) :]
