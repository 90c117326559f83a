"""The bare repository of our own that the lease table is kept in: beside the clone's other state, with its settings for the remote.

The user's repository sees no lock, no ref and no object of the table, and its size does not slow the table down. What says how
the remote is reached (URL, rewriting of URLs, credentials, proxy, ssh) is copied out of the clone's configuration. It is copied
and not included, because a clone's configuration also holds what would be wrong here: promisor remotes, filters, hooks, refspecs.
The user's global configuration applies by itself.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner

TIP_REF: Final = "refs/table/tip"
"""Where the last known tip is kept, so that fetches get only what is new."""
_SECTIONS: Final = frozenset(("url", "http", "credential", "protocol", "ssh"))
_CORE: Final = frozenset(("sshcommand", "gitproxy", "askpass"))
_REMOTE: Final = frozenset(("proxy", "proxyauthmethod", "uploadpack", "receivepack", "vcs", "serveroption"))
_NAME = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_FOLDERS: Final = 256
"""For loose objects, by the first byte of their ids."""
_AT_ONCE: Final = 16
"""Of them, made ahead: one takes up to half a millisecond, and a swap needs six of which most are not there at first."""
_MANY_LOOSE: Final = 8
"""Loose objects in one of 256 folders: about 2,000 in all."""


class TableHome:
    """The repository's folder.

    Args:
        git_dir: the clone's git common directory.
        folder: where the repository is, or will be.
        remote: name of the remote.
        clone: runs commands in the clone.
    """

    def __init__(self, git_dir: Path, folder: Path, remote: str, clone: GitRunner) -> None:
        self.folder = folder
        self.algorithm = "sha1"
        self.sha_size = 20
        self._git_dir = git_dir
        self._remote = remote
        self._clone = clone
        self.lives = 0
        """How often it was made; not counting those that are found."""
        self._copied: tuple[object, ...] | None = None
        self._folders = 0
        """So many of those for objects have been made."""

    @property
    def objects(self) -> Path:
        """The folder with all objects of the table."""
        return self.folder / "objects"

    def doubt(self) -> None:
        """Something went wrong: settings may have changed in a file that the clone's configuration includes."""
        self._copied = None

    async def prepare(self) -> bool:
        """Make sure that it is there, with the settings as they are now. True if they were read anew.

        Raises:
            GitFailedError: it can't be made, or the clone's settings can't be read.
        """
        seen = tuple(_mark(self._git_dir / name) for name in ("config", "config.worktree"))
        if seen == self._copied and (self.folder / "config").is_file():
            return False
        outcome = await self._clone.run("config", "--list", "-z", "--show-scope")
        settings = _local_settings(outcome.checked("config").decode("utf-8", "surrogateescape"))
        try:
            self._write(settings)
        except OSError as error:
            raise GitFailedError(f"the lease table can't be kept in {self.folder}: {error.strerror}") from None
        self._copied = seen
        return True

    def _write(self, settings: list[tuple[str, str | None]]) -> None:
        formats = [value for key, value in settings if key == "extensions.objectformat" and value]
        self.algorithm = formats[-1] if formats else "sha1"
        self.sha_size = 32 if self.algorithm == "sha256" else 20
        text = config_text(settings, self._remote, self.algorithm)
        for name in ("objects", "refs/table"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        head = self.folder / "HEAD"
        if not head.exists():
            self.lives += 1
            head.write_text("ref: refs/heads/none\n", "utf-8")
        _replace(self.folder / "config", text.encode("utf-8", "surrogateescape"))

    def wipe(self) -> None:
        """Something in it is damaged: begin anew. All of it can be had from the remote."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._copied = None
        self.gathered()

    def tip(self) -> str | None:
        """The last tip that was fetched, landed or read, also by an earlier process."""
        try:
            text = (self.folder / TIP_REF).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return text if _NAME.fullmatch(text) else None

    def set_tip(self, commit: str | None) -> None:
        """Remember it, or that there is none. By hand: it is our own repository, with loose refs only.

        Raises:
            GitFailedError: it can't be written.
        """
        try:
            if commit is None:
                (self.folder / TIP_REF).unlink(missing_ok=True)
            else:
                _replace(self.folder / TIP_REF, commit.encode() + b"\n")
        except OSError as error:
            raise GitFailedError(f"the lease table can't be kept in {self.folder}: {error.strerror}") from None

    def spread(self) -> None:
        """Make some of the folders for objects that are not there yet: for when nobody waits.

        Raises:
            OSError: they can't be made.
        """
        for number in range(self._folders, min(_FOLDERS, self._folders + _AT_ONCE)):
            (self.objects / f"{number:02x}").mkdir(exist_ok=True)
            self._folders = number + 1

    def gathered(self) -> None:
        """Folders without objects may be gone."""
        self._folders = 0

    def cut_past(self, commit: str | None) -> None:
        """From now on, this commit has no parents here. What git does when it fetches with a depth, without asking the remote.

        Raises:
            GitFailedError: it can't be written.
        """
        if commit is None:
            return
        try:
            _replace(self.folder / "shallow", commit.encode() + b"\n")
        except OSError as error:
            raise GitFailedError(f"the lease table can't be kept in {self.folder}: {error.strerror}") from None

    def wants_packing(self) -> bool:
        """Whether objects have piled up."""
        try:
            return sum(1 for _ in (self.objects / "17").iterdir()) >= _MANY_LOOSE
        except OSError:
            return False


def config_text(settings: list[tuple[str, str | None]], remote: str, algorithm: str) -> str:
    """Our repository's configuration: what counts for reaching the remote, then what makes it a bare repository.

    Args:
        settings: the clone's own, in order; None: a key without a value.
        remote: name of the remote.
        algorithm: of object ids.
    """
    lines: list[str] = []
    urls: dict[str, str] = {}
    for key, value in settings:
        section, _, rest = key.partition(".")
        subsection, _, name = rest.rpartition(".")
        if section == "remote":
            if subsection == remote and name in ("url", "pushurl") and value:
                urls.setdefault(name, value)
            wanted = subsection == remote and name in _REMOTE
        else:
            wanted = section in _SECTIONS or (section == "core" and name in _CORE) or key == "push.pushoption"
        if wanted:
            lines += [_header(section, subsection), f"\t{name}" + ("" if value is None else f" = {_quoted(value)}")]
    if urls:
        # One repository decides. Reads go where pushes go: a mirror that lags behind would show a table of the past.
        target = urls.get("pushurl", urls.get("url", ""))
        lines += [_header("remote", remote), f"\turl = {_quoted(target)}"]
        if "pushurl" in urls:
            lines.append(f"\tpushurl = {_quoted(target)}")
    version = 0 if algorithm == "sha1" else 1
    lines += ["[core]", f"\trepositoryformatversion = {version}", "\tbare = true", "\tfilemode = true"]
    if version:
        lines += ["[extensions]", f"\tobjectformat = {algorithm}"]
    return "\n".join(lines) + "\n"


def _header(section: str, subsection: str) -> str:
    if not subsection:
        return f"[{section}]"
    escaped = subsection.replace("\\", "\\\\").replace('"', '\\"')
    return f'[{section} "{escaped}"]'


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _local_settings(listing: str) -> list[tuple[str, str | None]]:
    """Of `git config --list -z --show-scope`: those of the clone itself, what it includes included."""
    fields = listing.split("\0")
    settings: list[tuple[str, str | None]] = []
    for scope, item in zip(fields[::2], fields[1::2], strict=False):
        if scope in ("local", "worktree"):
            key, newline, value = item.partition("\n")
            settings.append((key, value if newline else None))
    return settings


def _mark(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _replace(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
