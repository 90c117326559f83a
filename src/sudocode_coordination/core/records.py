"""Peer records: `.sudocode/coordination/peers/agent-{id}.json` on the coordination branch, one per agent, signed by its peer.

    {agentId, multiaddrs, publicKey, capabilities, lastSeen, ttl, ext: {v: 1, peerId, signature}}

The signature is Ed25519, in base64, over `SIGNED_PREFIX` and the canonical JSON (keys sorted, no white space, ASCII) of
everything but the signature itself. Whatever is on the branch was written by anybody who may push: a record counts only
if it passes every check below, and nothing in it can raise.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Container, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

import msgspec

from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.model import AGENT_ID_PATTERN, AgentId, Json, PeerId, PeerRecord, WallMs

RECORD_VERSION: Final = 1
"""`ext.v` of the records written and understood here."""
SIGNED_PREFIX: Final = b"sudocode-coordination peer record 1\n"
"""Keeps a record's signature from meaning anything elsewhere, and others from meaning anything here."""
ROTATION_PREFIX: Final = b"sudocode-coordination key rotation 1\n"
"""The same for the old key's signature over the peer id that follows it."""
MAX_RECORD_BYTES: Final = 16_384
"""One file; also what fits into a `wire.RecordOffer`. A usual one has 700 bytes."""
MAX_MULTIADDRS: Final = 32
"""A machine has few interfaces; every address costs each peer a dial."""
MAX_MULTIADDR_CHARS: Final = 256
"""A relayed address with two peer ids has about 150."""
MAX_CAPABILITIES: Final = 64
"""They are shown to people and searched."""
MAX_CAPABILITY_CHARS: Final = 64
"""One or a few words."""
MIN_TTL_MS: Final = 1_000
"""Below this a record is stale before anybody has read it."""
MAX_TTL_MS: Final = 7 * 24 * 3_600_000
"""A week: longer, and peers long gone would count for too long."""
MAX_DEPTH: Final = 8
"""Nesting below `ext`, whose unknown fields are kept."""
_MAX_DIGITS: Final = 16
"""Of an integer: all below 2^53 have at most 16, and long ones cost quadratic time to read."""

_FILE_NAME = re.compile(r"agent-(.+)\.json\Z", re.DOTALL)
_MULTIADDR = re.compile(r"/(?:ip4|ip6|ip6zone|dns|dns4|dns6|dnsaddr)/[A-Za-z0-9_.:%-]+(?:/[A-Za-z0-9_.:%~=+-]+)*\Z")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|\+00:00)\Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS: Final = frozenset(("agentId", "multiaddrs", "publicKey", "capabilities", "lastSeen", "ttl", "ext"))


class Succession(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's last word: another id follows it. `signature`: by its key, over `rotation_bytes` of that id."""

    peer: PeerId
    signature: bytes


def rotation_bytes(successor: PeerId) -> bytes:
    """What a key signs that gives way to another."""
    return ROTATION_PREFIX + successor.encode()


class _RefusedError(Exception):
    """Why a record does not count; never leaves this file."""


def record_name(agent_id: AgentId) -> str:
    """The file name of an agent's record."""
    return f"agent-{agent_id}.json"


def agent_of_name(name: str) -> AgentId | None:
    """The agent whose record a file of that name would be; None if no agent can have it."""
    match = _FILE_NAME.match(name)
    if match is None or not AGENT_ID_PATTERN.match(match[1]):
        return None
    return match[1]


def format_wall(wall_ms: WallMs) -> str:
    """ISO 8601 UTC with milliseconds, `2027-01-15T08:00:00.000Z`; such strings order as the times do."""
    return (_EPOCH + timedelta(milliseconds=wall_ms)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def parse_wall(text: str) -> WallMs | None:
    """Milliseconds since 1970 of an ISO 8601 UTC time; None if it is none."""
    if not _INSTANT.match(text):
        return None
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)
    except ValueError:  # the 31st of June, hour 25
        return None


def to_write(
    changes: Mapping[str, bytes | None], beside: Mapping[str, tuple[str, ...]], there: Container[str]
) -> dict[str, bytes | None]:
    """Of the changes of a `io.Publish` those that are to be made, if the branch has the files `there`."""
    return {name: data for name, data in changes.items() if name not in beside or any(other in there for other in beside[name])}


def is_multiaddr(text: str) -> bool:
    """Whether it looks like an address that can be dialled."""
    return len(text) <= MAX_MULTIADDR_CHARS and _MULTIADDR.match(text) is not None


def peer_of(record: PeerRecord) -> PeerId:
    """The peer that signed a record which `parse_record` has let through."""
    return str(record.ext["peerId"])


def offers_relay(record: PeerRecord) -> bool:
    """Whether its peer says that it relays for others."""
    return record.ext.get("relay") is True


def build_record(
    keyring: Keyring,
    *,
    agent_id: AgentId,
    multiaddrs: tuple[str, ...],
    capabilities: tuple[str, ...],
    wall_ms: WallMs,
    ttl_ms: int,
    replaces: Succession | None = None,
    relay: bool = False,
) -> bytes:
    """The signed file for an agent of this peer. `replaces`: which id it had before.

    Addresses and capabilities that others would refuse (too long, too many, not printable) are left out, so that one bad
    word does not hide the whole peer.
    """
    fitting = [a for a in dict.fromkeys(multiaddrs) if is_multiaddr(a)][:MAX_MULTIADDRS]
    words = [c for c in dict.fromkeys(capabilities) if _is_word(c)][:MAX_CAPABILITIES]
    while True:
        body: dict[str, Any] = {
            "agentId": agent_id,
            "multiaddrs": fitting,
            "publicKey": base64.b64encode(keyring.public_key).decode(),
            "capabilities": words,
            "lastSeen": format_wall(wall_ms),
            "ttl": min(max(ttl_ms, MIN_TTL_MS), MAX_TTL_MS),
            "ext": {"v": RECORD_VERSION, "peerId": keyring.peer_id} | ({"relay": True} if relay else {}),
        }
        if replaces is not None:
            signature = base64.b64encode(replaces.signature).decode()
            body["ext"]["replaces"] = {"peerId": replaces.peer, "signature": signature}
        body["ext"]["signature"] = base64.b64encode(keyring.sign(_signed_bytes(body))).decode()
        data = msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
        if len(data) <= MAX_RECORD_BYTES:
            return data
        words.pop()  # many words of four-byte characters: the only way to get here


def parse_record(name: str, data: bytes, keyring: Keyring) -> PeerRecord | str:
    """A record whose signature was verified, or why the file does not count, in words for people.

    Args:
        name: file name under `peers/`.
        data: its bytes, from anywhere.
    """
    try:
        return _parse(name, data, keyring)
    except _RefusedError as refusal:
        return str(refusal)
    except RecursionError:
        return "nested too deeply"


def predecessor(record: PeerRecord, keyring: Keyring) -> PeerId | None:
    """The id that this peer had before its key was changed, if that key says so."""
    told = record.ext.get("replaces")
    if not isinstance(told, dict) or not isinstance(told.get("peerId"), str) or not isinstance(told.get("signature"), str):
        return None
    former: PeerId = told["peerId"]
    signature = _base64(told["signature"])
    if former == peer_of(record) or not former.isascii() or len(former) > 200 or signature is None:
        return None
    return former if keyring.verify(former, rotation_bytes(peer_of(record)), signature) else None


def peer_in(name: str, data: bytes, keyring: Keyring) -> PeerId | None:
    """The peer whose valid record a file is."""
    record = parse_record(name, data, keyring)
    return None if isinstance(record, str) else peer_of(record)


def _parse(name: str, data: bytes, keyring: Keyring) -> PeerRecord:
    agent_id = agent_of_name(name)
    if agent_id is None:
        raise _RefusedError("the file name is not agent-<id>.json")
    if len(data) > MAX_RECORD_BYTES:
        raise _RefusedError(f"{len(data)} bytes, {MAX_RECORD_BYTES} allowed")
    body = _load(data)
    if not isinstance(body, dict):
        raise _RefusedError("not a JSON object")
    _check_value(body, 0)
    for field in sorted(_FIELDS - {"ext"}):
        if field not in body:
            raise _RefusedError(f"{field} is missing")
    if unknown := sorted(body.keys() - _FIELDS):
        raise _RefusedError(f"unknown field {unknown[0][:40]!r}")
    if body["agentId"] != agent_id:
        raise _RefusedError("agentId is not the one in the file name")
    multiaddrs = _strings(body, "multiaddrs", MAX_MULTIADDRS)
    if wrong := [a for a in multiaddrs if not is_multiaddr(a)]:
        raise _RefusedError(f"multiaddrs: {wrong[0][:80]!r} is no address")
    capabilities = _strings(body, "capabilities", MAX_CAPABILITIES)
    if not all(_is_word(c) for c in capabilities):
        raise _RefusedError(f"capabilities: one is empty or longer than {MAX_CAPABILITY_CHARS} characters")
    last_seen = body["lastSeen"]
    if not isinstance(last_seen, str) or parse_wall(last_seen) is None:
        raise _RefusedError("lastSeen is no ISO 8601 UTC time")
    ttl = body["ttl"]
    if not isinstance(ttl, int) or isinstance(ttl, bool) or not MIN_TTL_MS <= ttl <= MAX_TTL_MS:
        raise _RefusedError(f"ttl is not between {MIN_TTL_MS} and {MAX_TTL_MS} ms")
    ext = body.get("ext")
    if not isinstance(ext, dict) or not isinstance(ext.get("signature"), str) or not isinstance(ext.get("peerId"), str):
        raise _RefusedError("not signed: some other program's record")
    if ext.get("v") != RECORD_VERSION or isinstance(ext["v"], bool):
        raise _RefusedError("ext.v is of another version")
    public_key = _verify(body, keyring)
    return PeerRecord(
        agent_id=agent_id,
        multiaddrs=multiaddrs,
        public_key=public_key,
        capabilities=capabilities,
        last_seen=last_seen,
        ttl=ttl,
        ext=ext,
    )


def _verify(body: dict[str, Any], keyring: Keyring) -> str:
    """The public key's text, if the record is signed by it and the peer id is made of it."""
    peer_id: str = body["ext"]["peerId"]
    key = keyring.public_key_of(peer_id) if 0 < len(peer_id) <= 200 and peer_id.isascii() else None
    if key is None:
        raise _RefusedError("ext.peerId is no Ed25519 peer id")
    text = body["publicKey"]
    if not isinstance(text, str) or _base64(text) != key:
        raise _RefusedError("publicKey is not the key of ext.peerId")
    signature = _base64(body["ext"]["signature"])
    if signature is None or len(signature) != 64 or not keyring.verify(peer_id, _signed_bytes(body), signature):
        raise _RefusedError("the signature is wrong")
    return text


def _signed_bytes(body: dict[str, Any]) -> bytes:
    unsigned = {**body, "ext": {k: v for k, v in body["ext"].items() if k != "signature"}}
    return SIGNED_PREFIX + _canonical(unsigned).encode()


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _is_word(text: str) -> bool:
    return 0 < len(text) <= MAX_CAPABILITY_CHARS and text.isprintable()


def _strings(body: dict[str, Any], field: str, limit: int) -> tuple[str, ...]:
    values = body[field]
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise _RefusedError(f"{field} is no list of strings")
    if len(values) > limit:
        raise _RefusedError(f"{field}: {len(values)}, {limit} allowed")
    return tuple(values)


def _load(data: bytes) -> Json:
    try:
        return _decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise _RefusedError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _RefusedError(f"not JSON: {error.msg} at character {error.pos}") from None


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    # Two readers that keep different ones of a doubled key would see two records under one signature.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RefusedError("a key is there twice")
    return found


def _no_float(_text: str) -> NoReturn:
    # No field has one, and their text differs between programs, so that a signature over them would not hold.
    raise _RefusedError("a number is no integer")


def _small_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _RefusedError("a number is too large")
    return int(text)


def _check_value(value: Json, depth: int) -> None:
    """Only what can be shown and passed on: no control characters, no lone surrogates, not too deep."""
    if depth > MAX_DEPTH:
        raise _RefusedError("nested too deeply")
    if isinstance(value, str):
        if not value.isprintable():
            raise _RefusedError("a text has characters that can't be printed")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_value(key, depth + 1)
            _check_value(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, depth + 1)


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float, parse_int=_small_int)


class _AgentIdOnly(msgspec.Struct):
    agentId: str  # noqa: N815


def offered_name(data: bytes) -> str | None:
    """The file name that an offered record says it has; everything else about it is checked later."""
    try:
        agent_id = msgspec.json.decode(data, type=_AgentIdOnly).agentId
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return record_name(agent_id)
