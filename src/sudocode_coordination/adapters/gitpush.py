"""One `git push` of one ref as a compare-and-swap, and what its end means: landed, certainly not landed, or unknown."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, Literal, NamedTuple, TypeAlias

import trio

from sudocode_coordination.adapters.gitrun import AUTHENTICATION, MAX_REASON_CHARS, GitFailedError, GitRunner, Outcome, redact
from sudocode_coordination.askgit import OVERTAKEN

CONTENTION: Final = re.compile(OVERTAKEN)
_UNCLEAR = re.compile(r"^\[remote failure\]|unpacker error")
"""The remote never said what came of it, or could not make sense of what it got: our objects or its disk are in trouble."""
_HTTP_REFUSAL = re.compile(r"(?:HTTP|returned error:) (?:400|401|403|404|405|410|411|413|415|422|451)\b")
"""The server has answered, and did not take it. 408, 429 and all that begins with a 5 may come from what stands before it."""


class Landed(NamedTuple):
    """The ref is the commit."""


class Lost(NamedTuple):
    """It is not known to be. moved, refused: it certainly is not, by this push."""

    kind: Literal["moved", "unknown", "refused"]
    reason: str
    policy: bool = False
    """The remote refused this ref itself; another one might do."""


Pushed: TypeAlias = Landed | Lost


async def push(git: GitRunner, remote: str, commit: str, ref: str, expected: str | None, *, grace_s: float = 0.0) -> Pushed:
    """Set `ref` on the remote to `commit` (empty: delete it) on the condition that it is `expected` (None: not there).

    A ref that is `commit` already counts as landed.

    Args:
        git: of the repository with the commit.
        remote: name of the remote.
        commit: what to push.
        ref: full name.
        expected: what the remote has to have there.
        grace_s: how long it may go on when it is cancelled: cut off, it might land or not, or leave a lock at the remote.
    """
    outcome: Outcome | None = None
    lost = "cut off"

    async def go() -> None:
        nonlocal outcome, lost
        try:
            outcome = await git.run(*push_arguments(remote, commit, ref, expected))
        except GitFailedError as failure:
            lost = failure.reason

    await with_grace(go, grace_s)
    if outcome is None:
        return Lost("unknown", lost)
    return Landed() if outcome.code == 0 else verdict(outcome)


def push_arguments(remote: str, commit: str, ref: str, expected: str | None) -> tuple[str, ...]:
    """Of `git push`, whatever the user has configured: this one ref, if it is `expected` there, and nothing along with it."""
    return (
        "push",
        "--porcelain",
        "--quiet",
        "--no-verify",
        "--no-follow-tags",
        "--no-signed",
        "--recurse-submodules=no",
        f"--force-with-lease={ref}:{expected or ''}",
        "--",
        remote,
        f"{commit}:{ref}",
    )


async def with_grace(go: Callable[[], Awaitable[None]], grace_s: float) -> None:
    """Run it to its end; cancelled, it has so many seconds for that."""
    scope = trio.CancelScope(shield=grace_s > 0)

    async def hurry() -> None:
        try:
            await trio.sleep_forever()
        finally:
            scope.deadline = min(scope.deadline, trio.current_time() + grace_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hurry)
        with scope:
            await go()
        nursery.cancel_scope.cancel()


class Refusal(NamedTuple):
    """Of the ref, by the remote or by git here for it: git's own summary, and with it what the remote said, without credentials."""

    summary: str
    words: str


def refusal_in(outcome: Outcome) -> Refusal | None:
    """None: the push failed before anybody looked at the ref."""
    refused = [line for line in outcome.stdout.decode("utf-8", "replace").splitlines() if line.startswith("!")]
    if not refused:
        return None
    summary = refused[0].split("\t")[-1]
    said = [line.removeprefix("remote:").strip() for line in outcome.stderr.splitlines() if line.startswith("remote:")]
    return Refusal(summary, redact(summary + (f" ({' '.join(s for s in said if s)})" if any(said) else ""))[:MAX_REASON_CHARS])


def verdict(outcome: Outcome) -> Lost:
    """What a push that did not end well means."""
    refusal = refusal_in(outcome)
    if refusal is not None:
        summary, words = refusal
        if _UNCLEAR.search(summary):
            return Lost("unknown", words)
        if "hook declined" not in summary and CONTENTION.search(f"{summary}\n{outcome.stderr}"):
            return Lost("moved", words)
        return Lost("refused", f"the remote refused the push: {words}", policy=True)
    try:
        outcome.checked("push")
    except GitFailedError as failure:
        if AUTHENTICATION.search(outcome.stderr) or _HTTP_REFUSAL.search(outcome.stderr):
            return Lost("refused", failure.reason)
        return Lost("unknown", failure.reason)
    raise AssertionError("only called for pushes that failed")
