"""Who may join, as the remote's default branch says: two small files, read at whatever commit the remote has there now.

Where the clone has that commit, they are read in it. Else it is fetched into a repository of our own beside the clone's other
state, one commit deep and without file contents: a daemon must not move what the user has fetched, and rules must not
wait until somebody fetches.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec
import trio

from sudocode_coordination.adapters.gitrun import FETCH_FLAGS, GitFailedError, GitRunner, redact
from sudocode_coordination.adapters.gittree import PLAIN_FILES
from sudocode_coordination.adapters.table_home import TableHome
from sudocode_coordination.config import CONFIG_FILE
from sudocode_coordination.core.admission import Rules, committed_rules

MAX_RULES_BYTES: Final = 256 << 10
"""Of each of the two files: twice what 1,000 allowed and 1,000 denied peers take."""
FETCH_TIMEOUT_S: Final = 120.0
"""Of the default branch's newest commit: a large repository whose host ignores filters sends all of its files once."""
_TIP: Final = "refs/rules/tip"


class CommittedRules:
    """The rules in force.

    Args:
        clone: runs commands in the clone.
        git_dir: the clone's git common directory.
        folder: for the repository of our own and the file of signers; made when it is first needed. None: the clone must do.
        remote: name of the remote.
        local: what this clone was told by flags and environment.
    """

    def __init__(self, clone: GitRunner, git_dir: Path, folder: Path | None, remote: str, local: Rules) -> None:
        self._clone = clone
        self._folder = folder
        self._remote = remote
        self._local = local
        self._home = None if folder is None else TableHome(git_dir, folder / "default.git", remote, clone)
        self._read_at: str | None = None
        self.now = local
        """As last read."""
        self._sound: Rules | None = None
        """The last that could be understood."""
        self._signers: bytes | None = None

    async def at(self, head: str | None) -> Rules:
        """Those of that commit; None: the remote has no default branch, so there are none but the own. If they can't be understood,
        the last ones that could stay in force.

        Raises:
            GitFailedError: they can't be read.
        """
        if head == self._read_at and self._sound is not None and not self.now.trouble:
            return self.now
        try:
            found, signers = await self._read(head)
        except GitFailedError as failure:
            reason = f"who may join can't be read on the default branch (git fetch may help): {failure.reason}"
            raise GitFailedError(reason) from None
        if found.closed and self._sound is not None:
            found, signers = msgspec.structs.replace(self._sound, trouble=found.trouble), self._signers
        if not found.trouble:
            self._sound, self._signers = found, signers
        self._read_at, self.now = head, found
        return found

    def signers_file(self) -> tuple[Path, str]:
        """The file of signers that git is to be given, and a name for its content.

        Raises:
            GitFailedError: it can't be written.
        """
        content = self._signers or b""
        name = hashlib.sha256(content).hexdigest()[:16]
        if self._folder is None:
            raise GitFailedError("there is no place for the list of signers")
        path = self._folder / f"signers-{name}"
        try:
            if not path.is_file() or path.read_bytes() != content:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                for old in self._folder.glob("signers-*"):
                    old.unlink(missing_ok=True)
                path.write_bytes(content)
        except OSError as error:
            raise GitFailedError(f"the list of signers can't be kept in {self._folder}: {error.strerror}") from None
        return path, name

    async def _read(self, head: str | None) -> tuple[Rules, bytes | None]:
        """The rules at a commit, and the list of signers if they need one."""
        found = committed_rules(None if head is None else await self._file(head, CONFIG_FILE), self._local, head)
        if found.signed != "require":
            return found, None
        signers = None if head is None else await self._file(head, found.signers)
        if signers is None and not found.closed:
            missing = f"signed commits are required, and {found.signers} is not on the default branch"
            found = msgspec.structs.replace(found, trouble=missing, closed=True)
        return found, signers

    # --- reading ------------------------------------------------------------------------------------------------------------

    async def _file(self, commit: str, path: str) -> bytes | None:
        """The file's content; None if the commit has no such file."""
        runner = await self._runner_with(commit)
        listed = (await runner.run("ls-tree", "-z", "--full-tree", commit, "--", path)).checked("ls-tree")
        if not listed:
            return None
        about, _, name = listed.rstrip(b"\0").partition(b"\t")
        mode, kind, sha = about.split(b" ")
        if name.decode("utf-8", "replace") != path or kind != b"blob" or mode not in PLAIN_FILES:
            raise GitFailedError(f"{path} on the default branch is no plain file")
        try:
            content = await runner.run("cat-file", "blob", sha.decode(), limit=MAX_RULES_BYTES)
        except GitFailedError as failure:
            raise GitFailedError(f"{path} on the default branch: {failure.reason}") from None
        return content.checked("cat-file")

    async def _runner_with(self, commit: str) -> GitRunner:
        if (await self._clone.run("cat-file", "-e", f"{commit}^{{tree}}")).code == 0:
            return self._clone
        if self._home is None:
            raise GitFailedError(f"the default branch's commit {commit[:10]} is not in this clone")
        await self._home.prepare()
        own = GitRunner(self._home.folder, await self._clone.folder(), self._remote, FETCH_TIMEOUT_S)
        if (await own.run("cat-file", "-e", f"{commit}^{{tree}}")).code != 0:
            await self._fetch(own)
            if (await own.run("cat-file", "-e", f"{commit}^{{tree}}")).code != 0:
                raise GitFailedError("the default branch moves faster than it can be fetched")
        return own

    async def _fetch(self, own: GitRunner) -> None:
        fetched = await own.run("fetch", *FETCH_FLAGS, "--depth=1", "--filter=blob:none", "--", self._remote, f"+HEAD:{_TIP}")
        if fetched.code != 0:
            await trio.lowlevel.checkpoint()
            raise GitFailedError(f"the default branch can't be fetched: {redact(fetched.stderr)[-200:]}")
