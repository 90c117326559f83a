"""What is changed in the worktrees of this clone: looked at, shared, and merged with what others have changed, without a trace.

    watch ──> one look at each worktree, a pause of fifty times what it took ──> WorkSeen
    foretell ──> a merge of what was seen last, a pause of four times what it took ──> MergeForetold

No file system events: they want a watch for every folder, ignored ones too, run out in large repositories, and tell nothing of
what git ignores or filters. A look costs what `git status` costs (docs/adr/0024).
"""

from __future__ import annotations

import logging
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from sudocode_coordination.adapters.diff_home import DiffHome
from sudocode_coordination.adapters.foresight import Foresight, MissingError
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner
from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.adapters.worktree_scan import Scanner, Seen
from sudocode_coordination.adapters.worktree_status import Worktree, linked_worktrees
from sudocode_coordination.core.diff_entries import MAIN, MAX_WORKTREES, DiffError, ObjectId, Work, worktree_name
from sudocode_coordination.core.io import ForetellMerge, MergeForetold, WorkSeen, WorkUnseen
from sudocode_coordination.core.secrecy import Denial
from sudocode_coordination.model import AgentId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings these stubs, and they hide trio's own types

NEEDED: Final = (2, 38)
"""Version of git that can merge without a worktree."""
COMMAND_TIMEOUT_S: Final = 30.0
"""Of one git command: `git status` of a large repository on a cold disk."""
LOOK_SHARE: Final = 50
"""A look may take a fiftieth of the time …"""
MAX_PAUSE_S: Final = 60.0
"""… but once a minute there is one."""
MERGE_SHARE: Final = 4
"""Merges may take a fifth of the time: what others write decides how many are asked for."""
MAX_MERGE_PAUSE_S: Final = 10.0
MAX_WAITING: Final = 64
"""Questions that wait; the core asks one at a time."""
FETCH_AGAIN_S: Final = 600.0
"""Before the remote is asked again for a commit that it did not give."""
MAX_ASKED_FOR: Final = 1_000
"""Commits that the remote was asked for, as remembered."""
_VERSION: Final = re.compile(r"git version (\d+)\.(\d+)")

log = logging.getLogger(__name__)


class Unwatched:
    """Stands in where nothing is shared (`enable_file_diffs`)."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def foretell(self, wanted: ForetellMerge) -> None:
        """Nobody asks; who did would be told."""
        self._deliver(MergeForetold(ticket=wanted.ticket, unknown="this clone takes no part (enable_file_diffs)"))

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """There is nothing to do."""
        task_status.started()


class GitWorkTrees:
    """See the module.

    Args:
        common_dir: the clone's git common directory.
        folder: for a repository of our own.
        deliver: where inputs go.
        remote: name of the git remote.
        agent: the clone's default agent.
        deny: patterns of names that nothing is told of, beside our own.
        coordination_branch: has nothing to do with work.
        interval_ms: between two looks, at least.
    """

    def __init__(
        self,
        common_dir: Path,
        folder: Path,
        deliver: Deliver,
        *,
        remote: str,
        agent: AgentId,
        deny: tuple[str, ...] = (),
        coordination_branch: str = "coordination",
        interval_ms: int = 2_000,
    ) -> None:
        self._common_dir = common_dir.absolute()
        self._deliver = deliver
        self._remote = remote
        self._agent = agent
        self._denial = Denial(deny)
        self._coordination_branch = coordination_branch
        self._interval_s = interval_ms / 1000
        self._clone = GitRunner(self._common_dir, None, remote, COMMAND_TIMEOUT_S)
        self._home = DiffHome(self._common_dir, folder, remote, self._clone, COMMAND_TIMEOUT_S)
        self._foresight = Foresight(self._home)
        self._scanners: dict[str, Scanner] = {}
        self._seen: dict[str, Seen] = {}
        self._told: dict[str, Work | None] = {}
        self._trouble = ""
        self._waiting: deque[ForetellMerge] = deque()
        self._wake = trio.Event()
        self._lock = trio.Lock()
        """Of the repository of our own: it may be emptied between two uses."""
        self._asked_for: dict[ObjectId, float] = {}

    def foretell(self, wanted: ForetellMerge) -> None:
        if len(self._waiting) >= MAX_WAITING:
            refused = self._waiting.popleft()
            self._deliver(MergeForetold(ticket=refused.ticket, unknown="too many merges are asked for"))
        self._waiting.append(wanted)
        self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._answer)
            task_status.started()

    # --- looking --------------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        self._home.begin_anew()
        while (trouble := await self._unable()) is not None:
            self._tell_trouble(trouble)
            await trio.sleep(MAX_PAUSE_S)
        while True:
            began = trio.current_time()
            async with self._lock:
                try:
                    await self._look()
                except Exception as error:  # nothing else of the daemon depends on this part, and the next look may succeed
                    log.exception("worktrees can't be looked at")
                    self._tell_trouble(f"a fault: {error!r}")
            took_s = trio.current_time() - began
            await trio.sleep(max(self._interval_s, min(MAX_PAUSE_S, LOOK_SHARE * took_s)))

    async def _unable(self) -> str | None:
        """Why git can't do what is needed."""
        try:
            said = (await self._clone.run("version")).checked("version").decode("utf-8", "replace")
        except GitFailedError as error:
            return error.reason
        found = _VERSION.search(said)
        if found is not None and (int(found[1]), int(found[2])) < NEEDED:
            return f"git {NEEDED[0]}.{NEEDED[1]} or later is needed, this is {found[1]}.{found[2]}"
        return None

    async def _look(self) -> None:
        """At all worktrees."""
        troubles: list[str] = []
        try:
            await self._home.prepare()
            self._home.tidy()
            there = await self._worktrees()
        except GitFailedError as error:
            self._tell_trouble(error.reason)
            return
        if len(there) > MAX_WORKTREES:
            troubles.append(f"{len(there)} worktrees, {MAX_WORKTREES} are looked at")
        for worktree in there[:MAX_WORKTREES]:
            try:
                self._seen[worktree.name] = seen = await self._scanner(worktree).look()
            except GitFailedError as error:
                troubles.append(error.reason if worktree.name == MAIN else f"{worktree.name}: {error.reason}")
                self._seen.pop(worktree.name, None)
                self._tell(worktree.name, None)
            else:
                self._tell(worktree.name, seen.work)
        for name in self._told.keys() - {worktree.name for worktree in there[:MAX_WORKTREES]}:
            self._scanners.pop(name, None)
            self._seen.pop(name, None)
            self._tell(name, None)
        self._tell_trouble("; ".join(troubles))

    async def _worktrees(self) -> list[Worktree]:
        found: list[Worktree] = []
        root = await self._clone.folder()
        if root != self._common_dir and (root / ".git").exists():
            found.append(Worktree(MAIN, root, self._common_dir))
        names: set[str] = set()
        for linked in linked_worktrees(self._common_dir):
            name = worktree_name(linked.name)
            if name not in names:
                names.add(name)
                found.append(linked._replace(name=name))
        return found

    def _scanner(self, worktree: Worktree) -> Scanner:
        known = self._scanners.get(worktree.name)
        if known is None or known.root != worktree.root:
            known = self._scanners[worktree.name] = Scanner(
                worktree.root,
                worktree.git_dir,
                self._common_dir,
                self._home,
                remote=self._remote,
                agent=self._agent,
                denial=self._denial,
                coordination_branch=self._coordination_branch,
                timeout_s=COMMAND_TIMEOUT_S,
            )
        return known

    def _tell(self, name: str, work: Work | None) -> None:
        if self._told.get(name) != work:
            self._told[name] = work
            self._deliver(WorkSeen(worktree=name, work=work))
        if work is None:
            self._told.pop(name, None)

    def _tell_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._deliver(WorkUnseen(reason=trouble))

    # --- foretelling ----------------------------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        while True:
            while not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            wanted = self._waiting.popleft()
            began = trio.current_time()
            self._deliver(await self._foretold(wanted))
            await trio.sleep(min(MAX_MERGE_PAUSE_S, MERGE_SHARE * (trio.current_time() - began)))

    async def _foretold(self, wanted: ForetellMerge) -> MergeForetold:
        try:
            try:
                return await self._merged(wanted)
            except MissingError as error:
                await self._fetch(error.commits)
                return await self._merged(wanted)
        except MissingError as error:
            return MergeForetold(ticket=wanted.ticket, unknown=f"{error}: git fetch {self._remote}")
        except (DiffError, GitFailedError) as error:
            reason = error.reason if isinstance(error, GitFailedError) else str(error)
            log.info("a merge can't be foretold: %s", reason)
            return MergeForetold(ticket=wanted.ticket, unknown=reason)
        except Exception as error:  # as above
            log.exception("a merge can't be foretold")
            return MergeForetold(ticket=wanted.ticket, unknown=f"a fault: {error!r}")

    async def _merged(self, wanted: ForetellMerge) -> MergeForetold:
        async with self._lock:
            seen, scanner = self._seen.get(wanted.worktree), self._scanners.get(wanted.worktree)
            if seen is None or scanner is None:
                return MergeForetold(ticket=wanted.ticket, unknown="the worktree is gone")
            conflicts = await self._foresight.foretell(seen, wanted.theirs, scanner.root)
            return MergeForetold(ticket=wanted.ticket, conflicts=conflicts)

    async def _fetch(self, commits: tuple[ObjectId, ...]) -> None:
        """Get what somebody builds on; once in a while at most, for they may have made it up."""
        now = trio.current_time()
        wanted = [commit for commit in commits if now >= self._asked_for.get(commit, now)]
        for commit in wanted:
            if len(self._asked_for) >= MAX_ASKED_FOR:
                del self._asked_for[next(iter(self._asked_for))]
            self._asked_for[commit] = now + FETCH_AGAIN_S
        if wanted:
            try:
                await self._home.fetch(wanted)
            except GitFailedError as error:
                log.info("commits of others can't be fetched: %s", error.reason)
