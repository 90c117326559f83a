"""A simulated git remote: one branch with compare-and-swap, shared by all nodes of a world, and its faults.

A `SimGitPort` behaves as `adapters.git.GitCli` does: one operation at a time, a read sees a state between request and answer,
a publish reads, builds and swaps, and tries again when it lost the race, up to a time limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from sudocode_coordination.core.io import BranchPublished, BranchPublishFailed, BranchRead, BranchReadFailed, Input
from sudocode_coordination.core.records import MAX_RECORD_BYTES, agent_of_name, to_write
from sudocode_coordination.model import Instant
from sudocode_coordination.sim.scheduler import Scheduler

MIN_LATENCY_MS: Final = 5
"""One way, to a remote on the same machine."""
MAX_LATENCY_MS: Final = 120
"""One way, to a hosted remote on a bad day."""
TIME_LIMIT_MS: Final = 20_000
"""An operation that gets no answer fails after this."""
PUBLISH_LIMIT_MS: Final = 30_000
"""A publish with all its retries."""
FINAL_LIMIT_MS: Final = 8_000
"""The same for a final one."""
MAX_WAITING: Final = 16
"""Operations of one node in line."""
_BACKOFF_MS: Final = 50
_MAX_BACKOFF_MS: Final = 1_500


class _Tip(NamedTuple):
    commit: str
    files: dict[str, bytes]
    other_paths: tuple[str, ...]


class SimGitRemote:
    """The remote repository.

    Args:
        scheduler: time and dice of the world.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.reachable = True
        """False: every operation fails, after its time limit or at once."""
        self.read_only = False
        """True: pushes are refused."""
        self.lost_reply_share = 0.0
        """Share of pushes that land although the pusher is told of a failure."""
        self.pushes: list[Instant] = []
        """When a push has landed."""
        self.attempts = 0
        """Pushes tried, the lost races and refused ones too."""
        self._tip: _Tip | None = None
        self._commits = 0

    @property
    def commit(self) -> str | None:
        """The branch's tip; None if there is no branch."""
        return self._tip.commit if self._tip is not None else None

    @property
    def files(self) -> dict[str, bytes]:
        """The files under `peers/`, a copy."""
        return dict(self._tip.files) if self._tip is not None else {}

    @property
    def other_paths(self) -> tuple[str, ...]:
        """Paths elsewhere on the branch: no publish may lose them."""
        return self._tip.other_paths if self._tip is not None else ()

    def pushes_between(self, start: Instant, end: Instant) -> int:
        """How many pushes landed at or after `start` and before `end`."""
        return sum(start <= at < end for at in self.pushes)

    def delete_branch(self) -> None:
        """Somebody deletes it."""
        self._tip = None

    def rewrite(self, files: dict[str, bytes], other_paths: tuple[str, ...] = ()) -> None:
        """Somebody pushes by force, or by hand."""
        self._tip = _Tip(self._next_commit(), dict(files), other_paths)

    def swap(self, expected: str | None, files: dict[str, bytes]) -> str | None:
        """Set the files if the tip is `expected`: the new commit, or None if it is another."""
        self.attempts += 1
        if self.commit != expected:
            return None
        self._tip = _Tip(self._next_commit(), dict(files), self.other_paths)
        self.pushes.append(self.scheduler.instant)
        return self._tip.commit

    def _next_commit(self) -> str:
        self._commits += 1
        return f"{self._commits:040x}"


class _Job(NamedTuple):
    ticket: int | None
    """None: a read."""
    changes: dict[str, bytes | None]
    final: bool
    started: Instant = 0
    beside: Mapping[str, tuple[str, ...]] = MappingProxyType({})


class SimGitPort:
    """One node's `ports.GitRemote`.

    Args:
        remote: what all nodes share.
        deliver: takes the outcomes.
    """

    def __init__(self, remote: SimGitRemote, deliver: Callable[[Input], None]) -> None:
        self._remote = remote
        self._scheduler = remote.scheduler
        self._deliver = deliver
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
        self._finishing = False
        self._closed = False
        self.connected = True
        """False: this node alone can't reach the remote."""

    def read_branch(self) -> None:
        """Fetch and read all records; one already in line serves."""
        if not any(job.ticket is None for job in self._waiting):
            self._enqueue(_Job(None, {}, final=False))

    def publish(
        self,
        ticket: int,
        changes: dict[str, bytes | None],
        *,
        beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        final: bool = False,
    ) -> None:
        """As `ports.GitRemote` has it. A final one goes before all that waits."""
        job = _Job(ticket, dict(changes), final, beside=dict(beside))
        if final:
            self._finishing = True
            dropped, self._waiting = self._waiting, deque([job])
            for waiting in dropped:
                self._after(0, waiting, "stopping")
            self._next()
            return
        self._enqueue(job)

    def crash(self) -> None:
        """The process is killed: nothing is delivered any more. What is on its way to the remote still lands."""
        self._closed = True
        self._waiting.clear()

    def _enqueue(self, job: _Job) -> None:
        if self._finishing or len(self._waiting) >= MAX_WAITING:
            self._after(0, job, "stopping" if self._finishing else "too many operations wait for the git remote")
            return
        self._waiting.append(job)
        self._next()

    def _after(self, delay_ms: int, job: _Job, reason: str) -> None:
        self._scheduler.after(delay_ms, lambda: self._tell_failure(job, reason))

    def _tell_failure(self, job: _Job, reason: str) -> None:
        if self._closed:
            return
        if job.ticket is None:
            self._deliver(BranchReadFailed(reason=reason))
        else:
            self._deliver(BranchPublishFailed(ticket=job.ticket, reason=reason))

    def _next(self) -> None:
        if self._running is not None or not self._waiting or self._closed:
            return
        self._running = self._waiting.popleft()._replace(started=self._scheduler.instant)
        job = self._running
        # Not within the caller: ports answer later.
        self._scheduler.after(self._latency(), lambda: self._arrive(job, _BACKOFF_MS))

    def _latency(self) -> int:
        return self._scheduler.random.randint(MIN_LATENCY_MS, MAX_LATENCY_MS)

    def _done(self, job: _Job, failure: str | None = None) -> None:
        self._running = None
        if failure is not None:
            self._tell_failure(job, failure)
        self._next()

    def _up(self) -> bool:
        return self._remote.reachable and self.connected

    def _arrive(self, job: _Job, backoff_ms: int) -> None:
        """The request is at the remote: take its state, answer."""
        if not self._up():
            # Sometimes refused at once, sometimes no answer at all.
            wait = self._scheduler.random.choice((0, FINAL_LIMIT_MS if job.final else TIME_LIMIT_MS))
            self._scheduler.after(wait, lambda: self._done(job, "the remote can't be reached"))
            return
        commit, files = self._remote.commit, self._remote.files
        if job.ticket is None:
            self._scheduler.after(self._latency(), lambda: self._answer_read(job, commit, files))
        else:
            self._scheduler.after(2 * self._latency(), lambda: self._swap(job, commit, files, backoff_ms))

    def _answer_read(self, job: _Job, commit: str | None, files: dict[str, bytes]) -> None:
        skipped: dict[str, str] = {}
        for name, data in sorted(files.items()):
            if agent_of_name(name) is None:
                skipped[name] = "the file name is not agent-<id>.json"
            elif len(data) > MAX_RECORD_BYTES:
                skipped[name] = f"{len(data)} bytes, {MAX_RECORD_BYTES} allowed"
        records = {name: data for name, data in sorted(files.items()) if name not in skipped}
        if not self._closed:
            self._deliver(BranchRead(commit=commit, records=records, skipped=skipped))
        self._done(job)

    def _swap(self, job: _Job, commit: str | None, files: dict[str, bytes], backoff_ms: int) -> None:
        """The push, built on what was read a while ago, is at the remote."""
        assert job.ticket is not None
        if not self._up():
            self._done(job, "the remote can't be reached")
            return
        wanted = dict(files)
        for name, data in to_write(job.changes, job.beside, files).items():
            if data is None:
                wanted.pop(name, None)
            else:
                wanted[name] = data
        if wanted == files:
            self._answer_push(job, commit or "")
            return
        if self._remote.read_only:
            self._done(job, "the remote refused the push: [remote rejected] (pre-receive hook declined)")
            return
        landed = self._remote.swap(commit, wanted)
        if landed is not None:
            if self._scheduler.random.random() < self._remote.lost_reply_share:
                self._scheduler.after(self._latency(), lambda: self._done(job, "no answer from the remote"))
            else:
                self._scheduler.after(self._latency(), lambda: self._answer_push(job, landed))
            return
        limit = FINAL_LIMIT_MS if job.final else PUBLISH_LIMIT_MS
        wait = self._latency() + self._scheduler.random.randint(0, backoff_ms)
        if self._scheduler.instant + wait - job.started > limit:
            self._done(job, f"not published within {limit // 1000} s: stale info")
            return
        self._scheduler.after(wait, lambda: self._arrive(job, min(backoff_ms * 2, _MAX_BACKOFF_MS)))

    def _answer_push(self, job: _Job, commit: str) -> None:
        assert job.ticket is not None
        if not self._closed:
            self._deliver(BranchPublished(ticket=job.ticket, commit=commit))
        self._done(job)
