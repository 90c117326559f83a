"""Whether a remote can be pushed to without `git push`: what the settings say of the way there, and whether they still say so.

A path on this machine is spoken with directly (`gitdirect`), http by the helper that `git push` would start (`githelper`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from sudocode_coordination.adapters.gitrun import GitRunner

_UNLIKE: Final = re.compile(r"(?:remote\.(?P<remote>.*)\.(?:receivepack|vcs)|push\.pushoption)")
"""Settings with which a push is not what is done here."""
_ALLOWING: Final = frozenset(("protocol.allow", "protocol.file.allow", "protocol.http.allow", "protocol.https.allow"))
_ALLOWED: Final = frozenset(("always", "user"))
_FORBIDDING: Final = ("GIT_ALLOW_PROTOCOL", "GIT_PROTOCOL_FROM_USER")
_COMMAND_LINE: Final = "command line:"
_FILE: Final = "file:"


class Way(NamedTuple):
    """How the remote is reached, if that is clear."""

    scheme: Literal["path", "http", "https"]
    path: str
    """Of a repository on this machine, else empty: over http, git finds the address in its settings, with the login in it."""
    marks: Mapping[str, tuple[int, ...]]
    """The files that say so, as they were."""

    @property
    def holds(self) -> bool:
        """Whether none of them has changed."""
        return all(_mark(path) == mark for path, mark in self.marks.items())


async def find_way(git: GitRunner, remote: str) -> Way | None:
    """How a remote can be reached past `git push`; None: it can't.

    Args:
        git: of the repository with the remote's settings.
        remote: its name.

    Raises:
        GitFailedError: the settings can't be read.
    """
    if any(name in os.environ for name in _FORBIDDING):
        return None
    listing = (await git.run("config", "--list", "-z", "--show-origin")).checked("config").decode("utf-8", "surrogateescape")
    fields = listing.split("\0")
    folder = await git.folder()
    files = {str(path) for path in _personal_files()}
    for origin, item in zip(fields[::2], fields[1::2], strict=False):
        key, _, value = item.partition("\n")
        unlike = _UNLIKE.fullmatch(key)
        if unlike is not None and unlike["remote"] in (None, remote):
            return None
        if key in _ALLOWING and value not in _ALLOWED:
            return None
        if origin.startswith(_FILE):
            file = folder / origin.removeprefix(_FILE)
            files.add(str(file))
            if key.startswith("include") and key.endswith(".path"):  # it may not be there yet
                files.add(str(file.parent / Path(value).expanduser()))
        elif origin != _COMMAND_LINE:
            return None
    marks = {path: _mark(path) for path in files}
    urls = await _urls(git, remote, "--push")
    if len(urls) != 1:
        return None
    path = local_path(urls[0])
    if path is not None:
        return Way("path", path, marks) if (folder / path).is_dir() else None
    # The helper takes the address to read from, which `pushInsteadOf` may have made another one.
    scheme = _http_scheme(urls[0])
    return Way(scheme, "", marks) if scheme is not None and await _urls(git, remote) == urls else None


async def _urls(git: GitRunner, remote: str, *which: str) -> list[str]:
    told = await git.run("remote", "get-url", *which, "--all", "--", remote)
    return told.stdout.decode("utf-8", "surrogateescape").splitlines() if told.code == 0 else []


def _http_scheme(url: str) -> Literal["http", "https"] | None:
    if url.startswith("https://"):
        return "https"
    return "http" if url.startswith("http://") else None


def _personal_files() -> list[Path]:
    """Where settings may come to be that are not there yet."""
    home = Path(os.environ.get("HOME") or "/")
    named = [os.environ.get(name) for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM")]
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return [Path(name) for name in named if name] + [home / ".gitconfig", xdg / "git" / "config", Path("/etc/gitconfig")]


def local_path(url: str) -> str | None:
    """The path in a URL that git takes for one on this machine; None if it is none, or one that git would read in its own way."""
    if url.startswith("file://"):
        path = url.removeprefix("file://")
        return path if path.startswith("/") and "%" not in path else None
    if "\n" in url or url.startswith(("-", "~")) or ":" in url.partition("/")[0]:
        return None
    return None if "://" in url or not url else url


def _mark(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a dozen of them before each push
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino
