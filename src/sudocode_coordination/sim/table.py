"""A simulated table of strict leases: one chain with compare-and-swap on the remote, shared by all nodes of a world; its faults.

A `SimTablePort` behaves as `adapters.git_table.GitTable` does: one operation at a time, in order; a read sees the state between
request and answer; a swap lands or not in one moment, which may be long after the pusher has given it up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from sudocode_coordination.core.io import (
    BuildTable,
    Input,
    SwapTable,
    TableBuilt,
    TableChange,
    TableRead,
    TableReadFailed,
    TableSwapFailed,
    TableSwapped,
)
from sudocode_coordination.model import Instant
from sudocode_coordination.sim.scheduler import Scheduler

REF: Final = "refs/coordination/leases"
MIN_LATENCY_MS: Final = 5
"""One way, to a remote on the same machine."""
MAX_LATENCY_MS: Final = 120
"""One way, to a hosted remote on a bad day."""
TIME_LIMIT_MS: Final = 20_000
"""An operation that gets no answer fails after this."""
MAX_LATE_MS: Final = 10_000
"""How long after that a push that was given up may still land."""
MAX_LOCKED_MS: Final = 8
"""How long a push that lands holds the ref's lock; others meanwhile are told that it is locked."""
MAX_WAITING: Final = 16
"""Operations of one node in line, as in the real one."""

Verdict: TypeAlias = Literal["landed", "moved", "locked", "refused"]


class Landing(NamedTuple):
    """A swap that landed: what the chain is made of, for whoever checks."""

    at: Instant
    commit: str
    parent: str | None
    changes: dict[str, bytes | None]


class SimTableRemote:
    """The ref on the remote.

    Args:
        scheduler: time and dice of the world.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.reachable = True
        """False: every operation fails, after its time limit or at once."""
        self.refuses = False
        """True: pushes are refused by policy."""
        self.lost_reply_share = 0.0
        """Share of pushes whose pusher is told nothing; they land or not as if nothing was."""
        self.late_share = 0.0
        """Share of pushes that get to the remote only after their pusher has given them up."""
        self.history: list[Landing] = []
        """Every swap that has landed, in order; a rewind does not shorten it."""
        self.attempts = 0
        """Pushes that got to the remote, whatever came of them."""
        self.commit: str | None = None
        """The tip; None if there is no table."""
        self._trees: dict[str, dict[str, bytes]] = {}
        self._parents: dict[str, str | None] = {}
        self._built: dict[str, TableChange] = {}
        self._locked_until: Instant = -1

    @property
    def files(self) -> dict[str, bytes]:
        """The table as it is: path -> content. Not to be changed."""
        return self.files_at(self.commit)

    def files_at(self, commit: str | None) -> dict[str, bytes]:
        """The table as it was at a commit of the chain. Not to be changed."""
        return {} if commit is None else self._trees[commit]

    def descends(self, commit: str | None, ancestor: str) -> bool:
        """Whether `ancestor` is `commit` or comes before it."""
        while commit is not None and commit != ancestor:
            commit = self._parents[commit]
        return commit is not None

    def rewind(self, steps: int = 1) -> None:
        """Somebody pushes an older commit by force, or deletes the ref if there is none so old."""
        for _ in range(steps):
            self.commit = None if self.commit is None else self._parents[self.commit]

    def land(self, change: TableChange) -> Verdict:
        """A push is at the remote."""
        self.attempts += 1
        now = self.scheduler.instant
        commit = commit_of(change)
        if self.refuses:
            return "refused"
        if self.commit == commit:
            return "landed"
        if self.commit != change.parent:
            return "moved"
        if now <= self._locked_until:
            return "locked"
        files = dict(self.files)
        for path, content in change.changes.items():
            if content is None:
                files.pop(path, None)
            else:
                files[path] = content
        self._locked_until = now + self.scheduler.random.randint(0, MAX_LOCKED_MS)
        self.commit = commit
        self._trees[commit] = files
        self._parents[commit] = change.parent
        self.history.append(Landing(now, commit, change.parent, dict(change.changes)))
        return "landed"

    def keep(self, change: TableChange) -> str:
        """A commit that was built and not pushed."""
        commit = commit_of(change)
        self._built[commit] = change
        return commit

    def push_built(self, commit: str) -> Verdict:
        """A client pushes a built commit together with its work (`coord push`): all or nothing."""
        return self.land(self._built[commit])


def commit_of(change: TableChange) -> str:
    """The commit's id: the same values make the same commit."""
    values = (change.parent, sorted(change.changes.items()), change.nonce, change.wall_ms)
    return blake2b(msgspec.msgpack.encode(values), digest_size=20).hexdigest()


class _Read(NamedTuple):
    whole: bool


class SimTablePort:
    """One node's `ports.LeaseTable`.

    Args:
        remote: what all nodes share.
        deliver: takes the outcomes.
    """

    def __init__(self, remote: SimTableRemote, deliver: Callable[[Input], None]) -> None:
        self._remote = remote
        self._scheduler = remote.scheduler
        self._deliver = deliver
        self._waiting: deque[_Read | SwapTable | BuildTable] = deque()
        self._running: _Read | SwapTable | BuildTable | None = None
        self._delivered: str | None = None
        """The commit that the node knows the table of."""
        self._given_up: set[str] = set()
        """Commits whose fate was told as unknown: nobody may hear for sure later that they have not landed."""
        self._closed = False
        self.connected = True
        """False: this node alone can't reach the remote."""

    def read_table(self, *, whole: bool = False) -> None:
        """Fetch and read what changed; one that is last in line serves."""
        if self._waiting and isinstance(self._waiting[-1], _Read):
            whole = whole or self._waiting.pop().whole  # type: ignore[union-attr]
        self._enqueue(_Read(whole))

    def swap_table(self, change: SwapTable) -> None:
        """Make the commit and push it."""
        self._enqueue(change)

    def build_table(self, change: BuildTable) -> None:
        """Make the commit."""
        self._enqueue(change)

    def crash(self) -> None:
        """The process is gone: nothing is delivered any more. What is on its way to the remote still lands."""
        self._closed = True
        self._waiting.clear()

    def _enqueue(self, job: _Read | SwapTable | BuildTable) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._scheduler.after(0, lambda: self._fail(job, "too many operations wait for the git remote"))
            return
        self._waiting.append(job)
        self._next()

    def _next(self) -> None:
        if self._running is not None or not self._waiting or self._closed:
            return
        job = self._running = self._waiting.popleft()
        # Not within the caller: ports answer later.
        match job:
            case _Read():
                self._scheduler.after(self._latency(), lambda: self._read(job))
            case SwapTable():
                self._scheduler.after(self._latency(), lambda: self._arrive(job))
            case BuildTable():
                commit = self._remote.keep(job)
                built = TableBuilt(ticket=job.ticket, commit=commit, ref=REF, objects="simulated")
                self._scheduler.after(1, lambda: self._done(built))

    def _latency(self) -> int:
        return self._scheduler.random.randint(MIN_LATENCY_MS, MAX_LATENCY_MS)

    def _done(self, outcome: Input) -> None:
        self._running = None
        if not self._closed:
            self._deliver(outcome)
        self._next()

    def _fail(self, job: _Read | SwapTable | BuildTable, reason: str) -> None:
        """Outside of the order: it never began."""
        if not self._closed:
            self._deliver(_failure(job, reason))

    def _reachable(self, job: _Read | SwapTable) -> bool:
        if self._remote.reachable and self.connected:
            return True
        # Sometimes refused at once, sometimes no answer at all.
        wait = self._scheduler.random.choice((0, TIME_LIMIT_MS))
        self._scheduler.after(wait, lambda: self._done(_failure(job, "the remote can't be reached")))
        return False

    # --- reading ------------------------------------------------------------------------------------------------------------

    def _read(self, job: _Read) -> None:
        """The request is at the remote."""
        if self._reachable(job):
            commit = self._remote.commit
            self._scheduler.after(self._latency(), lambda: self._done(self._told(commit, whole=job.whole)))

    def _told(self, commit: str | None, *, whole: bool) -> TableRead:
        known, self._delivered = self._delivered, commit
        new = self._remote.files_at(commit)
        old = {} if whole else self._remote.files_at(known)
        changed: dict[str, bytes | None] = {path: content for path, content in sorted(new.items()) if old.get(path) != content}
        changed.update((path, None) for path in sorted(old.keys() - new.keys()))
        rewound = known is not None and not self._remote.descends(commit, known)
        return TableRead(commit=commit, base=None if whole else known, changed=changed, ref=REF, rewound=rewound)

    # --- swapping -----------------------------------------------------------------------------------------------------------

    def _arrive(self, job: SwapTable) -> None:
        if not self._reachable(job):
            return
        dice = self._scheduler.random
        if self._remote.late_share and dice.random() < self._remote.late_share:
            self._give_up(job, TIME_LIMIT_MS)
            self._scheduler.after(TIME_LIMIT_MS + dice.randint(1, MAX_LATE_MS), lambda: self._land_late(job))
            return
        verdict = self._remote.land(job)
        if self._remote.lost_reply_share and dice.random() < self._remote.lost_reply_share:
            self._give_up(job, dice.choice((0, TIME_LIMIT_MS)))
            return
        self._scheduler.after(self._latency(), lambda: self._answer(job, verdict))

    def _land_late(self, job: SwapTable) -> None:
        if self._remote.reachable:
            self._remote.land(job)

    def _give_up(self, job: SwapTable, wait_ms: int) -> None:
        self._given_up.add(commit_of(job))
        self._scheduler.after(wait_ms, lambda: self._done(_failure(job, "no answer from the remote")))

    def _answer(self, job: SwapTable, verdict: Verdict) -> None:
        commit = commit_of(job)
        if verdict == "landed":
            self._given_up.discard(commit)
            self._delivered = commit
            self._done(TableSwapped(ticket=job.ticket, commit=commit))
            return
        kind: Literal["moved", "refused", "unknown"]
        if verdict == "refused":
            kind, reason = "refused", "[remote rejected] (pre-receive hook declined)"
        else:
            kind, reason = "moved", "[rejected] (stale info)" if verdict == "moved" else "[remote rejected] (cannot lock ref)"
        if commit in self._given_up:
            kind, reason = "unknown", f"an earlier try may have landed: {reason}"
        self._done(TableSwapFailed(ticket=job.ticket, kind=kind, reason=reason))


def _failure(job: _Read | SwapTable | BuildTable, reason: str) -> Input:
    if isinstance(job, _Read):
        return TableReadFailed(reason=reason)
    return TableSwapFailed(ticket=job.ticket, kind="unknown", reason=reason)
