"""Who may join: the rules of the repository, and who was refused by them.

Without rules whoever may push to the coordination branch takes part, by the record that it puts there. A repository where that
is not enough has rules in its committed configuration, on the default branch of the remote: who changes them has passed whatever
protects that branch, and no checkout of an old branch undoes them. What one clone is told by flags or environment can
only make them stricter.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sudocode_coordination.config import CONFIG_FILE, RULE_KEYS, CoordinationConfig, SigningRule, config_from_mapping
from sudocode_coordination.core.peer_ids import key_from_peer_id
from sudocode_coordination.errors import ConfigError
from sudocode_coordination.model import AgentId, Json, Now, PeerId, WallMs

MAX_REFUSALS: Final = 100
"""Peers of whom it is remembered that they were refused: strangers may knock under as many ids as they like."""
REFUSAL_MS: Final = 24 * 3_600_000
"""For how long they are told: longer, and nobody remembers what it was about."""
_STRICTNESS: Final[tuple[SigningRule, ...]] = ("off", "sign", "require")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Who may join, beyond being on the branch."""

    allowed: tuple[PeerId, ...] | None = None
    """None: everyone."""
    denied: tuple[PeerId, ...] = ()
    signed: SigningRule = "off"
    signers: str = ".sudocode/allowed_signers"
    """Path of the file with the keys that may sign, in the repository."""
    commit: str | None = None
    """Of the default branch, that they were read at."""
    trouble: str = ""
    """Why they may not be what the repository says now."""
    closed: bool = False
    """There are rules, and they can't be understood: nobody may join."""

    def refuses(self, peer: PeerId) -> str:
        """Why that peer may not join; empty if nothing speaks against it."""
        if self.closed:
            return "the rules of this repository can't be read, so nobody is let in"
        if peer in self.denied:
            return "it is on the list denied_peers"
        if self.allowed is not None and peer not in self.allowed:
            return "it is not on the list allowed_peers"
        return ""


def local_rules(config: CoordinationConfig) -> Rules:
    """Those that this clone was started with."""
    return Rules(
        allowed=config.allowed_peers or None,
        denied=config.denied_peers,
        signed=config.signed_commits,
        signers=config.allowed_signers,
    )


def committed_rules(text: bytes | None, local: Rules, commit: str | None) -> Rules:
    """Those in force: what the repository's committed configuration says, made stricter by what this clone was told.

    Args:
        text: the file as it is on the default branch; None: there is none.
        local: of this clone.
        commit: where the file was read.
    """
    if text is None:
        return msgspec.structs.replace(local, commit=commit)
    try:
        found = _rules_in(text, local)
    except ConfigError as error:
        trouble = _CONTROL.sub(" ", f"{CONFIG_FILE} on the default branch: {error.message}")[:300]
        return msgspec.structs.replace(local, commit=commit, trouble=trouble, closed=True)
    lists = [set(allowed) for allowed in (found.allowed, local.allowed) if allowed is not None]
    return Rules(
        allowed=tuple(sorted(set.intersection(*lists))) if lists else None,
        denied=tuple(sorted({*found.denied, *local.denied})),
        signed=max(found.signed, local.signed, key=_STRICTNESS.index),
        signers=found.signers,
        commit=commit,
    )


def _rules_in(text: bytes, local: Rules) -> Rules:
    """What a configuration file says of it. Other keys, which a later version may know, are none of ours here.

    Raises:
        ConfigError: it is no TOML, or a rule is malformed.
    """
    try:
        values: Mapping[str, Any] = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(str(error)) from None
    config = config_from_mapping({"agent_id": "nobody", **{key: values[key] for key in sorted(RULE_KEYS) if key in values}})
    for peer in (*config.allowed_peers, *config.denied_peers):
        if key_from_peer_id(peer) is None:
            raise ConfigError(f"{peer!r} is no peer id")
    found = local_rules(config)
    return found if "allowed_signers" in values else msgspec.structs.replace(found, signers=local.signers)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that knocked and was not let in."""

    address: str
    first_ms: WallMs
    last_ms: WallMs
    times: int


class Admission:
    """Judges peers by the rules, and remembers who was refused."""

    def __init__(self) -> None:
        self.rules = Rules()
        self.vouched: frozenset[PeerId] | None = None
        """Peers whom a signed commit has introduced; None: it need not."""
        self.barred: dict[PeerId, AgentId] = {}
        """Peers with a sound record on the branch that the rules refuse, with an agent of theirs."""
        self._refusals: dict[PeerId, Refusal] = {}

    def refuses(self, peer: PeerId) -> str:
        """Why a peer with a sound record is refused; empty if it is not."""
        why = self.rules.refuses(peer)
        if not why and self.vouched is not None and peer not in self.vouched:
            why = "no commit with a valid signature has brought its record"
        return why

    def knocked(self, peer: PeerId, address: str, now: Now) -> None:
        """It was refused."""
        before = self._refusals.pop(peer, None)
        if before is None and len(self._refusals) >= MAX_REFUSALS:
            del self._refusals[next(iter(self._refusals))]
        first, times = (before.first_ms, before.times) if before is not None else (now.wall_ms, 0)
        self._refusals[peer] = Refusal(address=address, first_ms=first, last_ms=now.wall_ms, times=times + 1)

    def refusals(self, known: Mapping[PeerId, object], now: Now) -> dict[PeerId, Refusal]:
        """Who was refused of late and is not let in by now, the latest last."""
        self._refusals = {
            peer: refusal
            for peer, refusal in self._refusals.items()
            if peer not in known and now.wall_ms - refusal.last_ms < REFUSAL_MS
        }
        return dict(self._refusals)

    def why(self, peer: PeerId) -> str:
        """Why a peer that knocked was refused, as things are now."""
        rule = self.rules.refuses(peer)
        if rule:
            return rule
        return self.refuses(peer) if peer in self.barred else "no valid record on the branch is its own"

    def next_step(self, peer: PeerId) -> str:
        """What to do if it should be let in."""
        if self.rules.closed:
            return f"repair {CONFIG_FILE} on the default branch: {self.rules.trouble}"
        if peer in self.rules.denied:
            return f"nothing, if that is meant; else take it off denied_peers in {CONFIG_FILE} on the default branch"
        if self.rules.refuses(peer):
            return f"if you know it, add it to allowed_peers in {CONFIG_FILE} on the default branch"
        if peer in self.barred:
            return f"its owner must sign commits with a key in {self.rules.signers} (git config user.signingKey)"
        return "nothing, if it has just started or you do not know it; else see there whether it can push: coord doctor"

    def described(self) -> Json:
        """The rules in force, for people and programs."""
        rules = self.rules
        return {
            "allowedPeers": None if rules.allowed is None else list(rules.allowed),
            "deniedPeers": list(rules.denied),
            "signedCommits": rules.signed,
            "readAt": rules.commit,
        }
