"""The coordination branch through the `git` program: plumbing only, in the object store of the user's repository.

What is touched there: loose objects and packs, and `refs/remotes/<remote>/<branch>`. Work tree, index, HEAD, other refs,
configuration, FETCH_HEAD and hooks are not; nothing is checked out. Every write is a compare-and-swap: a commit on top of the
tip that was read, pushed on the condition that the tip is still that (`--force-with-lease=<ref>:<tip>`; for a child of the
tip the remote sees a plain fast-forward). Who loses the race reads again and builds again.

A push that was cut off may have landed all the same, and a commit that is already there counts as pushed: so every commit
carries a nonce, and after any failure it is the branch as read again that tells.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec
import trio

from sudocode_coordination.adapters.git_rules import CommittedRules
from sudocode_coordination.adapters.git_signed import PeerIn, SignedBranch, explain_signing, signing_options
from sudocode_coordination.adapters.gitpush import CONTENTION, push_arguments, refusal_in
from sudocode_coordination.adapters.gitrun import GitFailedError, GitRunner, Outcome
from sudocode_coordination.adapters.gittree import PEERS_PATH, PLAIN_FILES, GitTrees, ObjectsMissingError
from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.core.admission import Rules
from sudocode_coordination.core.io import BranchPublished, BranchPublishFailed, BranchRead, BranchReadFailed
from sudocode_coordination.core.records import MAX_RECORD_BYTES, agent_of_name, to_write
from sudocode_coordination.model import PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that libp2p brings along hide trio's own

MAX_RECORDS: Final = 2_000
"""Files read of the branch; ten agents each for the most peers that a swarm has. The first by name; others are told as skipped."""
MAX_SKIPPED: Final = 200
"""Files told of that are no records: enough to see what is wrong."""
MAX_HISTORY: Final = 500
"""Commits until the branch starts anew: what a new clone has to fetch stays below a megabyte."""
MAX_WAITING: Final = 16
"""Operations in line. The core has one read and one publish under way; the rest is room for a final one."""
FRESH_TIP_S: Final = 3.0
"""A tip read no longer ago than this is tried for a push without asking the remote again; the swap is checked there anyway."""
SQUASH_PAUSE_S: Final = 24 * 3_600.0
"""After the remote refused to let history be rewritten."""
_BACKOFF_S: Final = 0.05
_MAX_BACKOFF_S: Final = 1.5
"""Longest wait after a lost race: twenty publishers at once all get through within the time limit."""
_IDENTITY: Final = ("sudocode coordination", "coordination@sudocode.invalid")
_NO_FORCE = re.compile(r"non-fast-forward|force|protected|denied|not allowed|GH006|GH013", re.IGNORECASE)


class _Contention(Exception):  # noqa: N818
    """Somebody else pushed first, or holds a lock right now: read again, build again."""


class _Read(NamedTuple):
    ticket: None = None
    final: bool = False


class _Publish(NamedTuple):
    ticket: int
    changes: dict[str, bytes | None]
    beside: Mapping[str, tuple[str, ...]]
    final: bool


class GitCli:
    """`ports.GitRemote` by the `git` program. One operation at a time, in order.

    Args:
        git_dir: the clone's git common directory (of a bare repository: itself).
        remote: name of the remote.
        branch: name of the coordination branch, without `refs/heads/`.
        deliver: takes the outcomes.
        work_tree: where relative remote paths start from: the root of the main work tree. Derived if not given.
        rules: of who may join, beyond those on the remote's default branch.
        rules_folder: for what is fetched of that branch.
        me: own peer id.
        peer_in: reads records, for signed commits.
        command_timeout_s: limit of one `git` command; it is killed with all its children then.
        publish_timeout_s: limit of one publish with all its retries.
        final_timeout_s: the same for a final one: somebody waits for the program to end.
        random: dice for nonces and waits.
        max_history: commits until the branch is started anew.
    """

    def __init__(
        self,
        git_dir: Path,
        remote: str,
        branch: str,
        deliver: Deliver,
        *,
        work_tree: Path | None = None,
        rules: Rules = Rules(),  # noqa: B008 - immutable
        rules_folder: Path | None = None,
        me: PeerId | None = None,
        peer_in: PeerIn = lambda *_: None,
        command_timeout_s: float = 20.0,
        publish_timeout_s: float = 30.0,
        final_timeout_s: float = 8.0,
        random: Random | None = None,
        max_history: int = MAX_HISTORY,
    ) -> None:
        self._remote = remote
        self._ref = f"refs/heads/{branch}"
        self._tracking = f"refs/remotes/{remote}/{branch}"
        self._deliver = deliver
        self._publish_timeout_s = publish_timeout_s
        self._final_timeout_s = final_timeout_s
        self._random = random or Random()
        self._max_history = max_history
        self._git = GitRunner(git_dir, work_tree, remote, command_timeout_s)
        self._trees = GitTrees(self._git)
        self._me = me
        self._rules = CommittedRules(self._git, git_dir.absolute(), rules_folder, remote, rules)
        self._signed = SignedBranch(self._git, self._trees, self._rules, peer_in)
        self._head: str | None = None
        """The commit of the remote's default branch, as last told."""
        self._waiting: deque[_Read | _Publish] = deque()
        self._wake = trio.Event()
        self._current: trio.CancelScope | None = None
        self._pushing = False
        self._finishing = False
        self._complete: str | None = None
        """Tip whose objects are all here, by a fetch or push of this process that went well."""
        self._tip_read: tuple[str | None, float] | None = None
        self._last_read: BranchRead | None = None
        self._no_squash_until = 0.0

    # --- the port: returns at once -----------------------------------------------------------------------------------------

    def read_branch(self) -> None:
        """Fetch and read all records; one already in line serves."""
        if any(isinstance(job, _Read) for job in self._waiting):
            return
        self._enqueue(_Read())

    def publish(
        self,
        ticket: int,
        changes: dict[str, bytes | None],
        *,
        beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        final: bool = False,
    ) -> None:
        """As `ports.GitRemote` has it. A final one goes before all that waits and ends what runs."""
        job = _Publish(ticket, dict(changes), dict(beside), final)
        if not final:
            self._enqueue(job)
            return
        self._finishing = True
        dropped = [j for j in self._waiting if not j.final]
        self._waiting = deque(j for j in self._waiting if j.final)
        for waiting in dropped:
            self._fail(waiting, "stopping")
        self._waiting.append(job)
        if self._current is not None:
            # A push that is killed may still land, after the final one found nothing to remove: let it come to its end.
            self._current.deadline = trio.current_time() + (self._final_timeout_s / 4 if self._pushing else 0)
        self._wake.set()

    def _enqueue(self, job: _Read | _Publish) -> None:
        if len(self._waiting) >= MAX_WAITING or self._finishing:
            self._fail(job, "stopping" if self._finishing else "too many operations wait for the git remote")
            return
        self._waiting.append(job)
        self._wake.set()

    def _fail(self, job: _Read | _Publish, reason: str) -> None:
        if isinstance(job, _Read):
            self._deliver(BranchReadFailed(reason=reason))
        else:
            self._deliver(BranchPublishFailed(ticket=job.ticket, reason=reason))

    # --- the worker --------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what is in line, until cancelled. Children are killed and waited for before it returns."""
        task_status.started()
        while True:
            while not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            job = self._waiting.popleft()
            reason = "stopping"
            with trio.CancelScope() as scope:
                if not job.final:
                    self._current = scope
                self._pushing = isinstance(job, _Publish)
                try:
                    if isinstance(job, _Read):
                        self._deliver(await self._read())
                    else:
                        self._deliver(await self._publish(job))
                    continue
                except GitFailedError as failure:
                    reason = failure.reason
                finally:
                    self._current = None
            self._fail(job, reason)

    # --- reading -----------------------------------------------------------------------------------------------------------

    async def _read(self) -> BranchRead:
        for attempt in range(3):
            tip = await self._fetched_tip()
            rules = await self._rules.at(self._head)
            last = self._last_read
            if last is not None and last.commit == tip and last.rules == rules:
                return last
            try:
                found = BranchRead(commit=None, records={}) if tip is None else await self._read_commit(tip)
                vouched = tuple(sorted(await self._signed.believed(tip))) if rules.signed == "require" else None
                self._last_read = msgspec.structs.replace(found, rules=rules, vouched=vouched)
                return self._last_read
            except ObjectsMissingError:
                self._complete = None
                if attempt == 2:
                    raise
        raise AssertionError("the loop returns or raises")

    async def _read_commit(self, tip: str) -> BranchRead:
        listing = await self._trees.read(tip)
        skipped: dict[str, str] = {}
        names: dict[str, bytes] = {}
        for raw, entry in sorted(listing[len(PEERS_PATH)].items()):
            name = raw.decode("utf-8", "backslashreplace")
            reason = ""
            if agent_of_name(name) is None:
                reason = "the file name is not agent-<id>.json"
            elif entry.mode not in PLAIN_FILES:
                reason = "not a plain file"
            elif len(names) >= MAX_RECORDS:
                reason = f"more than {MAX_RECORDS} records"
            else:
                names[name] = entry.sha
            if reason and len(skipped) < MAX_SKIPPED:
                skipped[name[:200]] = reason
        sizes = await self._trees.sizes(names)
        for name, size in sizes.items():
            if size is None or size > MAX_RECORD_BYTES:
                del names[name]
                if len(skipped) < MAX_SKIPPED:
                    skipped[name] = "its content is missing" if size is None else f"{size} bytes, {MAX_RECORD_BYTES} allowed"
        contents = await self._trees.contents(list(names.values()), MAX_RECORD_BYTES + 200)
        return BranchRead(
            commit=tip,
            records={name: content for name, content in zip(names, contents, strict=True) if content is not None},
            skipped=skipped,
        )

    async def _fetched_tip(self) -> str | None:
        """The remote's tip, its objects here and the tracking ref set; None if the remote has no such branch.

        Raises:
            GitFailedError: the remote can't be read.
        """
        for _ in range(4):
            tip = await self._remote_tip()
            if tip == self._complete and tip is not None:
                break
            if tip is not None:
                outcome = await self._git.run(
                    "fetch",
                    "--quiet",
                    "--no-write-fetch-head",
                    "--no-tags",
                    "--no-prune",
                    "--no-recurse-submodules",
                    "--no-auto-maintenance",
                    "--no-show-forced-updates",
                    "--no-filter",
                    "--refmap=",
                    "--",
                    self._remote,
                    self._ref,
                )
                if outcome.code != 0:
                    if "couldn't find remote ref" in outcome.stderr or CONTENTION.search(outcome.stderr):
                        continue  # deleted or locked between the two commands
                    outcome.checked("fetch")
                # The branch may have moved between the two commands; what it was then came along as an ancestor, unless
                # history was rewritten. Then look again.
                if not await self._has(tip):
                    continue
            await self._set_tracking(tip)
            self._complete = tip
            break
        else:
            raise GitFailedError("the coordination branch changes faster than it can be fetched")
        self._tip_read = (tip, trio.current_time())
        return tip

    async def _remote_tip(self) -> str | None:
        outcome = await self._git.run("ls-remote", "--", self._remote, "HEAD", self._ref)
        found: dict[str, str] = {}
        for line in outcome.checked("ls-remote").decode("utf-8", "replace").splitlines():
            sha, _, ref = line.partition("\t")
            if re.fullmatch(r"[0-9a-f]{40,64}", sha):
                found.setdefault(ref, sha)
        self._head = found.get("HEAD")
        return found.get(self._ref)

    async def _has(self, sha: str) -> bool:
        return (await self._git.run("cat-file", "-e", f"{sha}^{{commit}}")).code == 0

    async def _set_tracking(self, tip: str | None) -> None:
        """Let `git branch -r` show what the remote has. It serves people only: if the ref is locked, the next time does."""
        current = await self._git.run("rev-parse", "--verify", "--quiet", self._tracking)
        old = current.stdout.decode("ascii", "replace").strip()
        if tip is None and old:
            await self._git.run("update-ref", "--no-deref", "-d", self._tracking, old)
        elif tip is not None and old != tip:
            await self._git.run("update-ref", "--no-deref", self._tracking, tip, *([old] if old else []))

    # --- publishing --------------------------------------------------------------------------------------------------------

    async def _publish(self, job: _Publish) -> BranchPublished:
        limit = self._final_timeout_s if job.final else self._publish_timeout_s
        backoff = _BACKOFF_S
        lost = "no answer"
        with trio.move_on_after(limit):
            attempt = 0
            while True:
                attempt += 1
                try:
                    commit = await self._try_publish(job, may_reuse=attempt == 1)
                except ObjectsMissingError as missing:
                    if attempt > 3:
                        raise
                    lost = missing.reason
                    self._complete = None
                    continue
                except _Contention as contention:
                    lost = str(contention)
                    self._tip_read = None
                    await trio.sleep(self._random.uniform(0, backoff))
                    backoff = min(backoff * 2, _MAX_BACKOFF_S)
                    continue
                return BranchPublished(ticket=job.ticket, commit=commit or "")
        raise GitFailedError(f"not published within {limit:g} s: {lost}")

    async def _try_publish(self, job: _Publish, *, may_reuse: bool) -> str | None:
        """The commit that has the changes; None if there is no branch and nothing to write."""
        known = self._tip_read
        if may_reuse and known is not None and trio.current_time() - known[1] < FRESH_TIP_S:
            tip = known[0]
        else:
            tip = await self._fetched_tip()
        trees = await self._trees.read(tip)
        there = {name.decode("utf-8", "backslashreplace") for name in trees[-1]}
        changes = to_write(job.changes, job.beside, there)
        rules = await self._rules.at(self._head)
        if rules.signed == "require":
            believed = await self._signed.believed(tip) | ({self._me} if self._me is not None else frozenset())
            changes = {**dict.fromkeys(await self._signed.not_vouched_for(trees[-1], believed)), **changes}
        tree = await self._trees.write(trees, changes)
        if tree is None:
            return tip
        if tip is not None and await self._wants_squash(tip):
            fresh = await self._commit(tree, None, rules, final=job.final)
            try:
                await self._push(fresh, tip, rewrites=True)
            except GitFailedError as failure:
                if not _NO_FORCE.search(failure.reason):
                    raise
                self._no_squash_until = trio.current_time() + SQUASH_PAUSE_S
            else:
                return fresh
        commit = await self._commit(tree, tip, rules, final=job.final)
        await self._push(commit, tip)
        return commit

    async def _wants_squash(self, tip: str) -> bool:
        if trio.current_time() < self._no_squash_until:
            return False
        outcome = await self._git.run("rev-list", "--count", f"--max-count={self._max_history + 1}", tip, "--")
        return int(outcome.checked("rev-list")) > self._max_history

    async def _commit(self, tree: bytes, parent: str | None, rules: Rules, *, final: bool) -> str:
        message = f"Update peer records\n\nNonce: {self._random.getrandbits(64):016x}\n"
        name, email = _IDENTITY
        identity = {
            f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", name), ("EMAIL", email))
        }
        arguments = ["-p", parent] if parent is not None else []
        arguments += [tree.decode()]
        if rules.signed != "off":
            try:
                command = (*signing_options(), "commit-tree", "-S", *arguments)
                outcome = await self._git.run(*command, stdin=message.encode(), environment=identity)
                return outcome.checked("commit-tree").decode().strip()
            except GitFailedError as failure:
                if not final:
                    raise explain_signing(failure) from None
                # To take the own records away needs no signature, and there is no next time.
        outcome = await self._git.run("commit-tree", "--no-gpg-sign", *arguments, stdin=message.encode(), environment=identity)
        return outcome.checked("commit-tree").decode().strip()

    async def _push(self, commit: str, expected: str | None, *, rewrites: bool = False) -> None:
        """Swap the remote's branch from `expected` (None: no branch) to `commit`.

        Raises:
            _Contention: it is something else, or locked.
            GitFailedError: refused or not reachable.
        """
        outcome = await self._git.run(*push_arguments(self._remote, commit, self._ref, expected))
        if outcome.code != 0:
            self._tip_read = None
            _raise_refusal(outcome, rewrites=rewrites)
        self._complete = commit
        self._tip_read = (commit, trio.current_time())
        await self._set_tracking(commit)


def _raise_refusal(outcome: Outcome, *, rewrites: bool) -> NoReturn:
    refusal = refusal_in(outcome)
    summary = refusal.summary if refusal is not None else ""
    # The remote itself says so of a new root only if it forbids them; of a child, when it has another tip by now.
    forbidden = "hook declined" in summary or (rewrites and summary.startswith("[remote rejected] (non-fast-forward"))
    if refusal is not None and not forbidden and (CONTENTION.search(summary) or CONTENTION.search(outcome.stderr)):
        raise _Contention(summary)
    if refusal is not None:
        raise GitFailedError(f"the remote refused the push: {refusal.words}")
    if CONTENTION.search(outcome.stderr):
        raise _Contention(outcome.stderr.strip().splitlines()[-1])
    outcome.checked("push")
    raise AssertionError("only called for pushes that failed")
