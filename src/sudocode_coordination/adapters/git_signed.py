"""Signed commits on the coordination branch: who signs vouches for the tree that it pushes.

The newest commit on the branch with a valid signature of an allowed signer is the *warrant*. The peers whose valid records are
in its tree are believed, wherever their records are changed later: a record is signed by its own peer. Whoever signs
pushes only records of believed peers and of itself, so that each believed peer was brought by an allowed signer, also after the
history was started anew. Commits without a valid signature can renew and remove, but let nobody in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Final, TypeAlias

from sudocode_coordination.adapters.git_rules import CommittedRules
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner
from sudocode_coordination.adapters.gittree import PEERS_PATH, PLAIN_FILES, Entry, GitTrees
from sudocode_coordination.core.records import MAX_RECORD_BYTES, agent_of_name
from sudocode_coordination.model import PeerId

PeerIn: TypeAlias = Callable[[str, bytes], PeerId | None]
"""(file name, bytes) -> the peer whose valid record that is; None if it is none."""

MAX_WALK: Final = 600
"""Commits looked at for a valid signature: all that the branch has until it is started anew, and some."""
MAX_JUDGED: Final = 2_000
"""Commits whose signature is remembered to be good or not."""
_NOT_SSH: Final = ("gpg.program", "gpg.openpgp.program", "gpg.x509.program")
"""Which other programs would believe is not the list of signers' business."""


def signing_options() -> tuple[str, ...]:
    """What `git` is told before a subcommand that makes or checks signatures: SSH and nothing else."""
    nothing = shutil.which("false") or "/bin/false"
    return ("-c", "gpg.format=ssh", *(part for key in _NOT_SSH for part in ("-c", f"{key}={nothing}")))


class SignedBranch:
    """The branch as its signatures tell.

    Args:
        git: runs commands in the clone.
        trees: reads its objects.
        rules: has the list of signers.
        peer_in: reads records.
    """

    def __init__(self, git: GitRunner, trees: GitTrees, rules: CommittedRules, peer_in: PeerIn) -> None:
        self._git = git
        self._trees = trees
        self._rules = rules
        self._peer_in = peer_in
        self._judged: dict[tuple[str, str], bool] = {}

    async def believed(self, tip: str | None) -> frozenset[PeerId]:
        """The peers that the newest commit with a valid signature vouches for."""
        warrant = await self._warrant(tip)
        if warrant is None:
            return frozenset()
        peers = (await self._trees.read(warrant))[len(PEERS_PATH)]
        return frozenset(peer for peer in (await self._peers_in(peers)).values() if peer is not None)

    async def not_vouched_for(self, peers: dict[bytes, Entry], believed: frozenset[PeerId]) -> list[str]:
        """Names of the files that one who signs leaves out; those that can be no record whatever is in them may stay."""
        found = await self._peers_in(peers)
        return [name for name, peer in found.items() if agent_of_name(name) is not None and (peer is None or peer not in believed)]

    async def _warrant(self, tip: str | None) -> str | None:
        if tip is None:
            return None
        listed = await self._git.run("rev-list", "--first-parent", f"--max-count={MAX_WALK}", tip, "--")
        for commit in listed.checked("rev-list").decode("ascii").split():
            if await self._is_signed(commit):
                return commit
        return None

    async def _is_signed(self, commit: str) -> bool:
        """Whether git says of its signature what `git verify-commit` does of a good one: `G`, by a key that the list has."""
        file, signers = self._rules.signers_file()
        key = (commit, signers)
        if key not in self._judged:
            options = (*signing_options(), "-c", f"gpg.ssh.allowedSignersFile={file}")
            outcome = await self._git.run(*options, "log", "-1", "--no-show-signature", "--format=%G?", commit, "--")
            if len(self._judged) >= MAX_JUDGED:
                self._judged.clear()
            self._judged[key] = outcome.checked("log").strip() == b"G"
        return self._judged[key]

    async def _peers_in(self, entries: dict[bytes, Entry]) -> dict[str, PeerId | None]:
        """Of each file under `peers/` whose record it is."""
        found: dict[str, PeerId | None] = {}
        names: dict[str, bytes] = {}
        for raw, entry in sorted(entries.items()):
            name = raw.decode("utf-8", "surrogateescape")
            found[name] = None
            if agent_of_name(name) is not None and entry.mode in PLAIN_FILES:
                names[name] = entry.sha
        sizes = await self._trees.sizes(names)
        names = {name: sha for name, sha in names.items() if (sizes[name] or MAX_RECORD_BYTES + 1) <= MAX_RECORD_BYTES}
        contents = await self._trees.contents(list(names.values()), MAX_RECORD_BYTES + 200)
        for name, content in zip(names, contents, strict=True):
            found[name] = None if content is None else self._peer_in(name, content)
        return found


def explain_signing(failure: GitFailedError) -> GitFailedError:
    """What to do about a commit that could not be signed."""
    return GitFailedError(
        f"the commit can't be signed: {failure.reason[:140]}; "
        "git config user.signingKey must name an SSH key that signs without asking"
    )
