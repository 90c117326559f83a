"""Configuration: one frozen value, every field explained. Flags go before `COORD_*` variables, those before
`.sudocode/coordination.toml` in the repository, and that before the defaults."""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from sudocode_coordination.errors import ConfigError
from sudocode_coordination.model import AGENT_ID_PATTERN, PartitionPolicy

CONFIG_FILE: Final = ".sudocode/coordination.toml"
ENVIRONMENT_PREFIX: Final = "COORD_"
MAX_CONFIG_BYTES: Final = 64 << 10
"""Of the file: all keys with comments take 10 KB."""
_NOT_CONFIG: Final = frozenset({"COORD_AGENT", "COORD_OVERRIDE"})
"""Variables with our prefix that are no configuration keys: who acts, and a guard's override."""

RULE_KEYS: Final = frozenset(("allowed_peers", "denied_peers", "signed_commits", "allowed_signers"))
"""Who may join (`core/admission.py`)."""

WEEK_MS: Final = 7 * 24 * 3_600_000
Ms = Annotated[int, Meta(ge=1, le=WEEK_MS)]
Address = Annotated[str, Meta(pattern=r"^/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/[0-9]{1,5}(/|$)")]
PeerKey = Annotated[str, Meta(pattern=r"^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$")]
Relay = Annotated[str, Meta(pattern=r"^/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/[0-9]{1,5}(/ws)?/p2p/[1-9A-HJ-NP-Za-km-z]{1,60}$")]
NamePattern = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
SigningRule = Literal["off", "sign", "require"]
_BRANCH: Final = r"^(?!.*(\.\.|//|/\.|\.lock(/|$)))[A-Za-z0-9_][A-Za-z0-9_./-]*(?<![./])$"
"""What git takes as a branch's name, of plain characters."""
_MEANT: Final = {
    "agent_id": "1 to 100 letters, digits, or . _ @ + -, beginning with a letter or digit",
    "git_remote": "the name of a git remote, such as origin",
    "coordination_branch": "a branch name of letters, digits and . _ - /, such as coordination",
    "listen_addresses": "a list of addresses such as /ip4/0.0.0.0/tcp/0 or /ip4/0.0.0.0/tcp/4001/ws",
    "allowed_peers": "a list of peer ids of 52 characters that begin with 12D3KooW, as `coord status --json` shows them",
    "denied_peers": "a list of peer ids of 52 characters that begin with 12D3KooW, as `coord status --json` shows them",
    "allowed_signers": "a path in the repository, such as .sudocode/allowed_signers",
    "relays": "a list of addresses with peer ids such as /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…",
    "announce_addresses": "a list of addresses such as /ip4/203.0.113.7/tcp/4001 or /dns4/example.org/tcp/4001/ws",
}
"""What is allowed, where a pattern would say it badly."""


class CoordinationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Durations are milliseconds."""

    agent_id: Annotated[str, Meta(pattern="^" + AGENT_ID_PATTERN.pattern)]
    """The daemon's default agent. Generated as `agent-<host>-<12 hex>` and kept, if it is not given."""
    git_remote: Annotated[str, Meta(min_length=1, pattern="^[^-]")] = "origin"
    """Name of the git remote that introduces the peers."""
    coordination_branch: Annotated[str, Meta(min_length=1, max_length=200, pattern=_BRANCH)] = "coordination"
    """Orphan branch that holds the peer records."""
    peer_discovery_interval_ms: Annotated[int, Meta(ge=1_000, le=WEEK_MS)] = 60_000
    """Between two looks at the branch at most; dice take up to a fifth off."""
    heartbeat_interval_ms: Annotated[int, Meta(ge=100, le=WEEK_MS)] = 15_000
    """Between two presence beats to a connected peer; 8 s for each that is connected, if that is longer. Who is silent for four of
    them is disconnected."""
    record_ttl_ms: Annotated[int, Meta(ge=60_000, le=WEEK_MS)] = 900_000
    """How long a record on the branch counts without refresh; it is refreshed at a third of it."""
    lease_ttl_ms: Ms = 300_000
    """Of a lease that names none. Renewed at half of it while its holder lives."""
    max_lease_ttl_ms: Ms = 3_600_000
    """Longest ttl that is granted; also how long a peer that lost its memory is not counted towards a quorum."""
    strict_lease_ttl_ms: Ms = 900_000
    """Of a strict lease that names none. Renewed at a third of it, all of a clone in one push."""
    gone_grace_ms: Annotated[int, Meta(ge=1_000, le=WEEK_MS)] = 30_000
    """A holder unreachable for this long no longer blocks provisional grants (`docs/leases.md`)."""
    preempt_grace_ms: Annotated[int, Meta(ge=0, le=WEEK_MS)] = 0
    """How long a holder may finish after a higher priority asked."""
    lease_history: Annotated[int, Meta(ge=1, le=2_000)] = 50
    """Ended leases of this clone that everyone can still ask about: `coord leases --history`. Each takes about 300 bytes with every
    peer; with resources and branches of long names fewer are kept, as if each took 512."""
    partition_policy: PartitionPolicy = "open"
    """Without a majority of the roster: `open` grants provisionally when all that can be reached agree; `majority`
    grants nothing; `closed` grants nothing new, majority or not, unless every live peer of the last view answers."""
    capabilities: tuple[str, ...] = ("code", "review", "test")
    """What the default agent offers; free words that other agents may look for."""
    listen_addresses: tuple[Address, ...] = (
        "/ip4/0.0.0.0/tcp/0",
        "/ip4/0.0.0.0/tcp/0/ws",
        "/ip6/::/tcp/0",
        "/ip6/::/tcp/0/ws",
    )
    """libp2p multiaddrs to listen on. Those of IPv6 are left out where the machine has none."""
    announce_addresses: tuple[Address, ...] = ()
    """Published instead of the interfaces' own addresses, if any are given."""
    relays: tuple[Relay, ...] = ()
    """Multiaddrs of relays, with their peer ids, to use where no direct address answers; instead of the peers that offer it."""
    relay_service: bool = False
    """Whether this peer relays for others, and says so in its records. For one that all can reach."""
    mdns: bool = True
    """Whether clones that know each other find each other on the local network by multicast DNS. A hash, addresses and a port are
    told there, nothing else; and nothing while only loopback is listened on."""
    ignore_case: bool | None = None
    """Whether names of files that differ in case alone are one. If it is not set: as git has it for this clone (`core.ignorecase`,
    read when the daemon starts)."""
    enable_file_diffs: bool = False
    """Share what is changed in this clone and not on the git remote with connected peers, line by line, and foretell what would not
    merge with theirs (`docs/conflicts.md`). Needs git 2.38."""
    file_diff_deny: Annotated[tuple[NamePattern, ...], Meta(max_length=200)] = ()
    """Files of which nothing is shared, beside those whose names tell of secrets: patterns such as `*.sql` or `vault/*`, of the
    whole path or of its last part."""
    file_diff_interval_ms: Annotated[int, Meta(ge=100, le=WEEK_MS)] = 2_000
    """Between two looks at what has changed, at least; in large repositories longer, up to a minute, so that it takes a fiftieth
    of one core."""
    max_peers: Annotated[int, Meta(ge=1, le=1_000)] = 200
    """Peers that are dialled or accepted at most."""
    allowed_peers: Annotated[tuple[PeerKey, ...], Meta(max_length=1_000)] = ()
    """Peer ids that may join; none listed: everyone who is on the branch. What counts is the file on the remote's default branch,
    whatever is checked out; flags and environment can only narrow it (`docs/joining.md`)."""
    denied_peers: Annotated[tuple[PeerKey, ...], Meta(max_length=1_000)] = ()
    """Peer ids that may not join. Read where `allowed_peers` is; flags and environment can only add to it."""
    signed_commits: SigningRule = "off"
    """`sign`: commits on the coordination branch are signed with the user's SSH key for git. `require`: and peers that no commit
    signed by a key in `allowed_signers` has introduced may not join. Read where `allowed_peers` is; flags can make it stricter."""
    allowed_signers: Annotated[str, Meta(pattern=r"^(?!.*(^|/)\.{1,2}(/|$))[^/\s][^\x00-\x1f]{0,250}$")] = (
        ".sudocode/allowed_signers"
    )
    """File in the repository with the keys that may sign, as `ssh-keygen` has it (ALLOWED SIGNERS). Read as `allowed_peers` is."""
    host_in_agent_id: bool = True
    """Whether a generated agent id has this machine's name in it: it is published on the branch."""


def _readable_host() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().split(".")[0]).strip("-")
    return host[:40] or "host"


def generate_agent_id(*, with_host: bool = True) -> str:
    """A fresh id, `agent-<host>-<12 hex>`, or without the host."""
    return f"agent-{_readable_host()}-{secrets.token_hex(6)}" if with_host else f"agent-{secrets.token_hex(6)}"


def names_host(agent_id: str) -> bool:
    """Whether a generated id has this machine's name in it."""
    return agent_id.startswith(f"agent-{_readable_host()}-")


def _explain(error: msgspec.ValidationError, source: str) -> ConfigError:
    return ConfigError(f"{source}: {error}", hint="docs/reference.md lists every key with its type and default")


def config_from_mapping(values: Mapping[str, Any], *, source: str = "configuration") -> CoordinationConfig:
    """A validated configuration.

    Raises:
        ConfigError: an unknown key or an impossible value, named with what is allowed.
    """
    known = _types().keys()
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: unknown key {key!r}", hint=f"known keys: {', '.join(sorted(known))}")
    for name in known & values.keys():
        try:
            msgspec.convert(values[name], _types()[name], strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"{source}: {name} = {values[name]!r} is not allowed: {_MEANT.get(name, error)}",
                hint="docs/reference.md lists every key with its type and default",
            ) from None
    try:
        return msgspec.convert({"agent_id": generate_agent_id(), **values}, CoordinationConfig, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(error, source) from None


@cache
def _types() -> dict[str, Any]:
    """Of each key. To work them out takes longer than to check a configuration."""
    return {field.name: field.type for field in msgspec.structs.fields(CoordinationConfig)}


def create_default_config(agent_id: str | None = None, **values: Any) -> CoordinationConfig:
    """The defaults, with what is given laid over them.

    Raises:
        ConfigError: an unknown key or an impossible value.
    """
    if agent_id is not None:
        values["agent_id"] = agent_id
    return config_from_mapping({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def read_config_file(path: Path) -> dict[str, Any]:
    """The keys of a `coordination.toml`; nothing if there is no such file. It comes with the repository, whoever wrote that.

    Raises:
        ConfigError: the file is no TOML.
    """
    try:
        data = _read_plain_file(path)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error}", hint="it must be a plain file of TOML") from None
    return parse_config(data, str(path))


def parse_config(data: bytes, source: str) -> dict[str, Any]:
    """The keys in TOML.

    Raises:
        ConfigError: it is none.
    """
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits are a ValueError, too
        raise ConfigError(f"{source}: {error}", hint="it must be TOML with keys like `lease_ttl_ms = 300000`") from None


def _read_plain_file(path: Path) -> bytes:
    """A link to a device or a pipe would be read without end, or waited for."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("no plain file")
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
    return data


def read_environment(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The keys set by `COORD_*` variables; lists are separated by commas, `COORD_AGENT_ID` sets `agent_id`.

    Raises:
        ConfigError: a variable names no key.
    """
    found: dict[str, Any] = {}
    fields = {f.name: f for f in msgspec.structs.fields(CoordinationConfig)}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _NOT_CONFIG:
            continue
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if key not in fields:
            raise ConfigError(f"environment: {name} names no configuration key", hint=f"known: {', '.join(sorted(fields))}")
        default = fields[key].default
        found[key] = tuple(p for p in text.split(",") if p) if isinstance(default, tuple) else text
    return found


def load_config(
    repository: Path, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> CoordinationConfig:
    """Flags over environment over the repository's file over the defaults.

    Args:
        repository: root of the work tree (or the bare repository).
        flags: keys given on the command line; None values are left out.

    Raises:
        ConfigError: an unknown key or an impossible value; it says where.
    """
    merged: dict[str, Any] = {}
    layers = (
        (CONFIG_FILE, read_config_file(repository / CONFIG_FILE)),
        ("environment", read_environment(environment)),
        ("flags", {k: v for k, v in (flags or {}).items() if v is not None}),
    )
    for source, layer in layers:
        config_from_mapping(layer, source=source)
        # Rules of who may join are read at the default branch: a checkout of an old branch must not open the door.
        counting = {k: v for k, v in layer.items() if source != CONFIG_FILE or k not in RULE_KEYS}
        merged.update({k: tuple(v) if isinstance(v, list) else v for k, v in counting.items()})
    return config_from_mapping(merged)
