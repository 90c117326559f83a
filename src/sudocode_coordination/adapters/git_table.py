"""The table of strict leases through the `git` program: one ref on the remote, changed by compare-and-swap alone.

A swap is one process: the objects are made here (`gitobjects`), and `git push --force-with-lease=<ref>:<parent>` puts them up on
the condition that the remote's ref is still the parent. A push that was cut off may have landed, or land later: its outcome is
`unknown`, and the same values make the same commit, so that it can be sent again.

Where the host takes no refs outside of branches, the table is the branch `coordination-leases`. An existing table decides which of
the two it is; the branch is made only if there is none and the host's policy refuses the ref.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, TypeVar, assert_never

import trio

from sudocode_coordination.adapters.gitdirect import Wanted
from sudocode_coordination.adapters.gitobjects import EMPTY, Made, Snapshot, UnfitError, make_commit, write_loose
from sudocode_coordination.adapters.gitpack import pack_of
from sudocode_coordination.adapters.gitpush import Landed, Lost, Pushed, push
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner
from sudocode_coordination.adapters.gitshort import STOP_GRACE_S, ShortWay
from sudocode_coordination.adapters.gittree import ObjectsMissingError
from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.adapters.table_home import TIP_REF, TableHome
from sudocode_coordination.adapters.table_trees import MAX_FILE_BYTES, TableTrees
from sudocode_coordination.core.io import (
    BuildTable,
    SwapTable,
    TableBuilt,
    TableChange,
    TableRead,
    TableReadFailed,
    TableSwapFailed,
    TableSwapped,
)

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that libp2p brings along hide trio's own

REF: Final = "refs/coordination/leases"
BRANCH_REF: Final = "refs/heads/coordination-leases"
"""Where hosts take branches only. Not below `coordination/`: a branch `coordination` could not be there as well."""
MAX_WAITING: Final = 16
"""Operations in line. The core has one of each kind under way."""
MAX_GIVEN_UP: Final = 64
"""Swaps with an unknown fate that are remembered, by nonce; they are sent again one after the other, within minutes."""
READ_LIMIT_S: Final = 45.0
"""A read with all its commands."""
FEW_CHANGES: Final = 16
"""So many files are written in a few milliseconds, before another thread had its turn. For more, the event loop must not wait."""
DEEPEN: Final = 500
"""Commits that are fetched to see whether a tip descends from one whose objects are gone here."""
_DAMAGED = re.compile(
    r"object file .* is empty|loose object|bad object|unable to read|could not parse|inflate|sha1 mismatch|hash mismatch"
    r"|unpacker error|not a valid object|bad tree object|missing necessary objects|\(stored in |not a git repository: '"
)
_POLICY: Final = "may not be used there"


log = logging.getLogger(__name__)


class _Read(NamedTuple):
    whole: bool


T = TypeVar("T")
_Job: TypeAlias = _Read | SwapTable | BuildTable


class _Moved(Exception):  # noqa: N818
    """The remote's tip is not the parent."""


class GitTable:
    """`ports.LeaseTable` by the `git` program. One operation at a time, in order.

    Args:
        git_dir: the clone's git common directory (of a bare repository: itself).
        folder: where our own repository is kept; made when it is first needed.
        remote: name of the remote.
        deliver: takes the outcomes.
        work_tree: where relative remote paths start from: the root of the main work tree. Derived if not given.
        command_timeout_s: limit of one `git` command, a push among them; it is ended with all its children then.
    """

    def __init__(
        self,
        git_dir: Path,
        folder: Path,
        remote: str,
        deliver: Deliver,
        *,
        work_tree: Path | None = None,
        command_timeout_s: float = 20.0,
    ) -> None:
        self._remote = remote
        self._deliver = deliver
        self._timeout_s = command_timeout_s
        self._clone = GitRunner(git_dir, work_tree, remote, command_timeout_s)
        self._home = TableHome(git_dir, folder, remote, self._clone)
        self._runner: GitRunner | None = None
        self._waiting: deque[_Job] = deque()
        self._wake = trio.Event()
        self._ref: str | None = None
        """Where the table is; None: not known, or there is none."""
        self._baseline: str | None = None
        """What a tip has to descend from: the one delivered before, or after a start, the last one of the process before."""
        self._delivered: str | None = None
        """The commit of what the core was told last."""
        self._trees = TableTrees(self._home)
        self._short = ShortWay(remote, command_timeout_s)
        self._given_up: deque[str] = deque(maxlen=MAX_GIVEN_UP)

    # --- the port: returns at once ------------------------------------------------------------------------------------------

    def read_table(self, *, whole: bool = False) -> None:
        """Fetch and read what changed; one that is last in line serves."""
        if self._waiting and isinstance(last := self._waiting[-1], _Read):
            self._waiting[-1] = _Read(whole or last.whole)
            return
        self._enqueue(_Read(whole))

    def swap_table(self, change: SwapTable) -> None:
        """Make the commit and push it."""
        self._enqueue(change)

    def build_table(self, change: BuildTable) -> None:
        """Make the commit."""
        self._enqueue(change)

    def _enqueue(self, job: _Job) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._fail(job, "too many operations wait for the git remote")
            return
        self._waiting.append(job)
        self._wake.set()

    def _fail(self, job: _Job, reason: str, kind: Literal["moved", "unknown", "refused"] = "unknown") -> None:
        if isinstance(job, _Read):
            self._deliver(TableReadFailed(reason=reason))
            return
        if kind != "unknown" and job.nonce in self._given_up:
            # Of this try it is certain, of the one before it is not.
            kind, reason = "unknown", f"an earlier try may have landed: {reason}"
        self._deliver(TableSwapFailed(ticket=job.ticket, kind=kind, reason=reason))

    # --- the worker ---------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what is in line, until cancelled. Children have ended before it returns; a push gets `STOP_GRACE_S` for that."""
        task_status.started()
        try:
            while True:
                await self._do(await self._next())
        finally:
            await self._short.close()

    async def _next(self) -> _Job:
        while not self._waiting:
            self._wake = trio.Event()
            with trio.move_on_at(self._short.waits_until) as scope:
                await self._wake.wait()
            if scope.cancelled_caught:
                await self._short.close()
        return self._waiting.popleft()

    async def _do(self, job: _Job) -> None:
        try:
            await self._work_on(job)
        except _Moved as moved:
            self._fail(job, str(moved), "moved")
        except UnfitError as unfit:
            self._fail(job, unfit.reason, "refused")
        except GitFailedError as failure:
            self._home.doubt()
            if isinstance(failure, ObjectsMissingError) or _DAMAGED.search(failure.reason):
                self._begin_anew()
            self._fail(job, failure.reason)

    async def _work_on(self, job: _Job) -> None:
        await self._prepare()
        match job:
            case _Read(whole=whole):
                with trio.move_on_after(READ_LIMIT_S) as scope:
                    self._deliver(await self._read(whole=whole))
                if scope.cancelled_caught:
                    raise GitFailedError(f"the lease table could not be read within {READ_LIMIT_S:g} s")
                if self._delivered is not None and self._home.wants_packing():
                    await self._pack()
            case SwapTable():
                await self._swap(job)
            case BuildTable():
                commit = await self._written(job)
                objects = str(self._home.objects)
                self._deliver(TableBuilt(ticket=job.ticket, commit=commit, ref=self._ref or REF, objects=objects))
            case _:
                assert_never(job)

    @property
    def _git(self) -> GitRunner:
        assert self._runner is not None, "set by the first operation"
        return self._runner

    async def _prepare(self) -> None:
        lives = self._home.lives
        anew = await self._home.prepare()
        if self._home.lives != lives:
            self._trees.clear()
        if self._runner is None:
            self._baseline = self._home.tip()
        if self._runner is None or anew:
            self._runner = GitRunner(self._home.folder, await self._clone.folder(), self._remote, self._timeout_s)
            await self._short.renew(self._runner)

    def _begin_anew(self) -> None:
        self._home.wipe()
        self._trees.clear()

    # --- reading ------------------------------------------------------------------------------------------------------------

    async def _read(self, *, whole: bool) -> TableRead:
        snapshot = await self._latest()
        tip, known = snapshot.commit, self._baseline
        rewound = known is not None and (tip is None or not await self._descends(tip, known))
        base = None if whole else self._delivered
        old = EMPTY if base is None else self._trees.snapshot(base)
        if old is None:
            base, old = None, EMPTY
        changed = await self._trees.changed(self._git, old, snapshot)
        await self._settle(tip)
        return TableRead(commit=tip, base=base, changed=changed, ref=self._ref or "", rewound=rewound)

    async def _settle(self, tip: str | None, made: Made | None = None, *, nobody_waits: bool = False) -> None:
        """The core is told of this one; `made`: not written yet. In a thread: now the core and its clients have their turn."""
        self._delivered = self._baseline = tip
        home = self._home

        def work() -> None:
            if made is not None:
                write_loose(home.objects, made.objects)
            home.set_tip(tip)
            if nobody_waits:
                home.spread()

        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(work)
        except GitFailedError as failure:
            # Only the next process would use it, to see a rewind.
            log.warning("%s", failure.reason)
        except OSError as error:
            log.warning("the lease table can't be kept in %s: %s", home.folder, error.strerror)
            self._begin_anew()
        else:
            if made is not None:
                self._trees.keep(made.snapshot)

    async def _latest(self) -> Snapshot:
        """The table as the remote has it.

        Raises:
            GitFailedError: it can't be read.
        """
        for _ in range(4):
            tip = await self._find()
            if tip is None:
                return EMPTY
            try:
                return await self._fetched(tip)
            except ObjectsMissingError:
                continue  # it moved between the two commands
        raise GitFailedError("the lease table changes faster than it can be fetched, or objects of it are missing on the remote")

    async def _find(self) -> str | None:
        """The table's tip on the remote, and where it is.

        Raises:
            GitFailedError: the remote can't be read, or has two tables.
        """
        outcome = await self._git.run("ls-remote", "--refs", "--", self._remote, REF, BRANCH_REF)
        tips: dict[str, str] = {}
        for line in outcome.checked("ls-remote").decode("utf-8", "replace").splitlines():
            sha, _, ref = line.partition("\t")
            if ref in (REF, BRANCH_REF) and re.fullmatch(r"[0-9a-f]{40,64}", sha):
                tips[ref] = sha
        if len(tips) > 1:
            raise GitFailedError(
                f"the remote has two lease tables, {REF} and {BRANCH_REF}: delete the one that is not in use; until then nothing "
                "says which of them counts"
            )
        self._ref = next(iter(tips), None)
        return None if self._ref is None else tips[self._ref]

    async def _fetched(self, tip: str) -> Snapshot:
        """The tip's folders; fetched if they are not here.

        Raises:
            ObjectsMissingError: the remote has another one by now.
            GitFailedError: the remote can't be read, or the table is none.
        """
        try:
            return await self._trees.load(self._git, tip)
        except ObjectsMissingError:
            pass
        depth = []
        if self._baseline is None:
            depth = ["--depth=1"]  # the past of a table is of no use, and grows for ever
        elif not await self._has(self._baseline):
            depth = [f"--depth={DEEPEN}"]
        outcome = await self._git.run(
            "fetch",
            "--quiet",
            "--no-write-fetch-head",
            "--no-tags",
            "--no-prune",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--no-show-forced-updates",
            "--refmap=",
            *depth,
            "--",
            self._remote,
            f"+{self._ref}:{TIP_REF}",
        )
        if outcome.code != 0 and "couldn't find remote ref" in outcome.stderr:
            raise ObjectsMissingError("the lease table has just been deleted")
        outcome.checked("fetch")
        return await self._trees.load(self._git, tip)

    async def _has(self, commit: str) -> bool:
        return (await self._git.run("cat-file", "-e", f"{commit}^{{commit}}")).code == 0

    async def _descends(self, tip: str, known: str) -> bool:
        if tip == known:
            return True
        outcome = await self._git.run("merge-base", "--is-ancestor", known, tip)
        return outcome.code == 0

    async def _pack(self) -> None:
        """Objects have piled up: forget the past, keep what a client's push may still need."""
        try:
            self._home.cut_past(self._delivered)
            packed = await self._git.run("-c", "gc.packRefs=false", "gc", "--quiet", "--prune=2.hours.ago")
            packed.checked("gc")
            self._home.gathered()
        except GitFailedError as failure:
            log.warning("the lease table's objects could not be packed: %s", failure.reason)
            self._begin_anew()

    # --- swapping -----------------------------------------------------------------------------------------------------------

    async def _make(self, change: TableChange) -> Made:
        """The commit, its objects written.

        Raises:
            _Moved: the parent is not the tip.
            UnfitError: it can't be made at all.
            GitFailedError: it can't be made now.
        """
        parent = EMPTY if change.parent is None else await self._parent(change.parent)
        made = await self._work(change, lambda: self._made(change, parent))
        try:
            await self._work(change, lambda: write_loose(self._home.objects, made.objects))
        except OSError as error:
            raise GitFailedError(f"the lease table can't be kept in {self._home.folder}: {error.strerror}") from None
        self._trees.keep(made.snapshot)
        return made

    def _made(self, change: TableChange, parent: Snapshot) -> Made:
        too_large = [path for path, content in change.changes.items() if content is not None and len(content) > MAX_FILE_BYTES]
        if too_large:
            raise UnfitError(f"{too_large[0]!r} is larger than {MAX_FILE_BYTES} bytes")
        return make_commit(
            parent,
            change.changes,
            message=f"Change leases\n\nNonce: {change.nonce}\n",
            wall_ms=change.wall_ms,
            algorithm=self._home.algorithm,
            sha_size=self._home.sha_size,
        )

    async def _work(self, change: TableChange, work: Callable[[], T]) -> T:
        return work() if len(change.changes) <= FEW_CHANGES else await trio.to_thread.run_sync(work)

    async def _parent(self, commit: str) -> Snapshot:
        try:
            return await self._trees.load(self._git, commit)
        except ObjectsMissingError:
            if await self._find() != commit:
                raise _Moved("the table has moved on") from None
        try:
            return await self._fetched(commit)
        except ObjectsMissingError:
            raise _Moved("the table has just moved on") from None

    async def _swap(self, job: SwapTable) -> None:
        if not await self._swap_shortly(job):
            commit = await self._written(job)
            if job.parent is None or self._ref is None:
                outcome = await self._push_first(commit, job.parent)
            else:
                outcome = await self._push(commit, self._ref, job.parent)
            await self._pushed(job, commit, outcome)
            if not isinstance(outcome, Landed):
                return
        try:
            await self._short.prepare()  # nobody waits any more: the next one may go faster
        except GitFailedError as failure:
            self._home.doubt()  # it is looked for once more; this swap has its outcome
            log.info("no short way to the remote: %s", failure.reason)

    async def _written(self, change: TableChange) -> str:
        commit = (await self._make(change)).snapshot.commit
        assert commit is not None
        return commit

    async def _pushed(self, job: SwapTable, commit: str, outcome: Pushed, unwritten: Made | None = None) -> None:
        if isinstance(outcome, Landed):
            self._deliver(TableSwapped(ticket=job.ticket, commit=commit))
            await self._settle(commit, unwritten, nobody_waits=True)
            return
        if outcome.kind != "moved":
            self._home.doubt()
        if outcome.kind == "unknown":
            if job.nonce not in self._given_up:
                self._given_up.append(job.nonce)
            if _DAMAGED.search(outcome.reason):
                self._begin_anew()
        self._fail(job, outcome.reason, outcome.kind)

    async def _swap_shortly(self, job: SwapTable) -> bool:
        """Without `git push`, if it is clear how, and all is known that it takes. False: nothing was sent."""
        parent = None if job.parent is None else self._trees.snapshot(job.parent)
        scheme = await self._short.scheme()
        if scheme is None or job.parent is None or parent is None or self._ref is None:
            return False
        if scheme == "http" and self._home.algorithm != "sha1":
            return False  # the helper speaks of refs before it was told of another format
        home, ref = self._home, self._ref

        async def told(commit: str, outcome: Pushed, unwritten: Made | None) -> None:
            await self._pushed(job, commit, outcome, unwritten)

        async def make() -> tuple[Made, Wanted]:
            made = await self._work(job, lambda: self._made(job, parent))
            commit, pack = made.snapshot.commit, await self._work(job, lambda: pack_of(made, parent, home.algorithm))
            assert commit is not None
            return made, Wanted(commit, ref, job.parent or "", home.algorithm, pack)

        if scheme == "path":
            return await self._short.by_path(make, told)
        return await self._short.over_http(lambda: self._written(job), ref, job.parent, told)

    async def _push_first(self, commit: str, parent: str | None) -> Pushed:
        """Push without knowing where the table is: look, and if there is none, find out which of the two refs is taken."""
        tip = await self._find()
        if self._ref is not None:
            if tip not in (parent, commit):
                return Lost("moved", "there is another table already" if parent is None else "the table has moved on")
            return await self._push(commit, self._ref, parent)
        if parent is not None:
            return Lost("moved", "the table is gone")
        first = await self._push(commit, REF, None)
        if isinstance(first, Landed) and await self._find() is None:
            # It is hidden from readers: a table that nobody sees excludes nobody.
            await push(self._git, self._remote, "", REF, commit)
            first = Lost("refused", f"{REF} is hidden", policy=True)
        if isinstance(first, Landed) or not first.policy:
            return first
        second = await self._push(commit, BRANCH_REF, None)
        if isinstance(second, Lost) and second.kind == "refused":
            reason = f"neither {REF} ({first.reason}) nor {BRANCH_REF} {_POLICY}: {second.reason}"
            return Lost("refused", reason[:600], policy=True)
        return second

    async def _push(self, commit: str, ref: str, parent: str | None) -> Pushed:
        outcome = await push(self._git, self._remote, commit, ref, parent, grace_s=STOP_GRACE_S)
        if isinstance(outcome, Landed):
            self._ref = ref
        return outcome
