"""Everything that parses what others wrote, each behind one function that takes bytes: it must return, or refuse in its own way.
What is accepted is held against what must be true of it. Whatever else comes out is a fault.

Used by `fuzz.py` (atheris, or dice), and by the tests that replay the corpus.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
from pycrdt import Doc, Map
from tests.core.feeds import Pen, identity
from tests.fuzz import streams, whole_node
from tests.fuzz.whole_node import WholeNode

from sudocode_coordination.adapters.foresight import parse_merged
from sudocode_coordination.adapters.gitobjects import parse_tree
from sudocode_coordination.adapters.gitrun import GitFailedError, redact
from sudocode_coordination.adapters.gittree import _parse_tree
from sudocode_coordination.adapters.libp2p_addresses import dial_order
from sudocode_coordination.adapters.links import read_hello
from sudocode_coordination.adapters.patches import parse_patches, placed_before, read_marked
from sudocode_coordination.adapters.worktree_status import parse_status
from sudocode_coordination.api.codec import CallError, decode_call, decode_server_line
from sudocode_coordination.bridge import protocol as y_protocol
from sudocode_coordination.bridge.room import Client, Room
from sudocode_coordination.cli.branch import _parse as doctor_reads
from sudocode_coordination.cli.text import clean
from sudocode_coordination.config import config_from_mapping, parse_config
from sudocode_coordination.core.active_work import WorkBoard
from sudocode_coordination.core.diff_entries import DiffError, Work, apply_hunks, changed_lines, read_entry, read_header
from sudocode_coordination.core.feed import decode_envelope, encode_envelope
from sudocode_coordination.core.grammar import GrammarError, parse_update
from sudocode_coordination.core.history_entries import branch_of, entry_from_lease, entry_from_record
from sudocode_coordination.core.lease_view import known_from_entry
from sudocode_coordination.core.mirror import Change, Mirror
from sudocode_coordination.core.records import offered_name, parse_record
from sudocode_coordination.core.resources import covers, normalise, overlap
from sudocode_coordination.core.strict_table import META, Table, encode_entry, path_of
from sudocode_coordination.core.wire import (
    decode_frame,
    decode_message,
    decode_signed,
    encode_frame,
    encode_message,
    encode_signed,
)
from sudocode_coordination.errors import ConfigError, ProtocolError, ResourceError
from sudocode_coordination.model import LineRange, Resource

KEYRING: Final = identity("ann")
OWNER: Final = identity("mallory").peer_id
CLAIM: Final = f"{OWNER}.1.1"


class Parser(NamedTuple):
    """`run` raises nothing but what is a fault. `seeds`: sound inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def frame(data: bytes) -> None:
    try:
        messages = decode_frame(data)
    except ProtocolError:
        return
    assert decode_frame(encode_frame(messages)) == messages


def message(data: bytes) -> None:
    try:
        found = decode_message(data)
    except ProtocolError:
        return
    assert decode_message(encode_message(found)) == found


def signed(data: bytes) -> None:
    try:
        found = decode_signed(data)
    except ProtocolError:
        return
    assert decode_signed(encode_signed(found)) == found


def envelope(data: bytes) -> None:
    try:
        found = decode_envelope(data)
    except ProtocolError:
        return
    assert decode_envelope(encode_envelope(found)) == found


def begun() -> tuple[Pen, list[bytes]]:
    """A feed with a past: overwritten, deleted, live."""
    pen = Pen("mallory")
    writes: list[Any] = [{("leases", "a"): 1, ("activeWork", "b"): {"x": [1.5, "é", None, True]}}, {("leases", "a"): 2}]
    return pen, [pen.update(step) for step in [*writes, {("leases", "c"): 3}, {("leases", "c"): None}]]


BEGUN, PAST = begun()


def update(data: bytes) -> None:
    """What the grammar lets through, the CRDT library applies as the grammar says, and without harm."""
    try:
        step = parse_update(BEGUN.state, BEGUN.owner, BEGUN.client, data)
    except GrammarError:
        return
    doc: Doc[Any] = Doc(client_id=1)
    for one in (*PAST, data):
        doc.apply_update(one)
    for change in step.changes:
        found = doc.get(change.root, type=Map).get(f"{BEGUN.owner}/{change.key}")
        assert json.dumps(_whole(found), sort_keys=True) == json.dumps(change.value, sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def record(data: bytes) -> None:
    found = parse_record("agent-ann.json", data, KEYRING)
    if not isinstance(found, str):
        assert found.agent_id == "ann"
    name = offered_name(data)
    if name is not None:
        parse_record(name, data, KEYRING)
    doctor_reads("agent-ann.json", data)


def table(data: bytes) -> None:
    read = Table().changed({META: data, path_of(CLAIM): data})
    assert read.revision >= 0
    for entry in read.entries.values():
        assert entry.id == CLAIM
        assert Table().changed({path_of(CLAIM): encode_entry(entry)}).entries == read.entries


def document_entry(data: bytes) -> None:
    """A value of a feed, under every root that is read as something."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return
    known = known_from_entry(OWNER, "1.1", value, 0, 0)
    if known is not None:
        assert known.owner == OWNER
        encode_frame(())
    entry_from_lease(OWNER, "1.1", value)
    entry_from_record(OWNER, "1.1", value)
    header = read_header(value)
    diff = read_entry(value)
    if header is not None:
        assert Work(header=header).parents[0] == header.base
    if diff is not None:
        assert len(changed_lines(diff)) == len(diff.hunks)
        with contextlib.suppress(DiffError):
            apply_hunks(b"1\n2\n3", diff)
    board = WorkBoard(fold_case=False)
    work = board.changed(OWNER, "m", value)
    if work is not None:
        assert board.all() == [work]
        board.near([Resource("file", f) for f in work.files[:3]])
        board.changed(OWNER, "m", None)
        assert board.all() == []


def call(data: bytes) -> None:
    with contextlib.suppress(CallError):
        decode_call(data)
    with contextlib.suppress(ProtocolError):
        decode_server_line(data)


class _Bytes:
    """A stream that has all its bytes at hand."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, n: int | None = None) -> bytes:
        found, self._data = self._data[:n], self._data[n or len(self._data) :]
        return found

    async def write(self, data: bytes) -> None:
        raise AssertionError(data)

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


def hello(data: bytes) -> None:
    with contextlib.suppress(ProtocolError, EOFError):
        _at_once(read_hello(_Bytes(data)))


def _at_once(work: Awaitable[Any]) -> Any:
    """The result of something that never has to wait."""
    try:
        work.__await__().send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def patch(data: bytes) -> None:
    """What git says, if it said something else than it does."""
    with contextlib.suppress(GitFailedError):
        for changes in parse_patches(data).values():
            placed_before([LineRange(1, 3), LineRange(9, 8)], changes)
    marked = read_marked(data, 7)
    if marked is not None:
        assert len(marked.our_places) == len(marked.their_places)
    with contextlib.suppress(GitFailedError):
        parse_merged(data)
    with contextlib.suppress(GitFailedError):
        parse_status(data)


def names(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    branch_of(text)
    shown = clean(text)
    assert shown.isprintable()
    assert clean(shown) == shown
    assert redact(text).isprintable()
    first, _, second = text.partition("\n")
    found = []
    for kind in ("file", "issue"):
        for name in (first, second):
            resource = Resource(kind, name[:1_024])
            try:
                sound = normalise(resource)
            except ResourceError:
                found.append(resource)
                continue
            assert normalise(sound) == sound
            found.append(sound)
    for one in found:
        for two in found:
            assert overlap(one, two) == overlap(two, one)
            if covers(one, two):
                assert overlap(one, two)


def tree(data: bytes) -> None:
    for read in (parse_tree, _parse_tree):
        for size in (20, 32):
            try:
                found = read(data, size)
            except GitFailedError:
                continue
            assert all(b"\0" not in name for name in found)


def addresses(data: bytes) -> None:
    for address in dial_order(data.decode("utf-8", "replace").split("\n")[:8], OWNER):
        assert str(address)


def config(data: bytes) -> None:
    """What the repository's own `coordination.toml` says."""
    with contextlib.suppress(ConfigError):
        config_from_mapping(parse_config(data, "fuzz"))


def _seeds() -> dict[str, tuple[bytes, ...]]:
    from tests.core.test_wire import MESSAGES

    pen = Pen("mallory")
    sound = pen.write({("leases", "1.1"): {"agent": "m"}})
    entry = {
        "agent": "m", "resources": [["file", "a.py"]], "mode": "exclusive", "priority": 0, "lamport": 1, "ttlMs": 60_000,
        "state": "granted", "grade": "quorum", "since": "2027", "handover": {"commit": "c" * 40, "agentId": "m", "at": "2027"},
    }  # fmt: skip
    history = ["s", "m", [["file", "a"]], "exclusive", 0, "quorum", "2027", "2027", "released", 1, None, "c" * 40, "main"]
    row = {"id": CLAIM, "agent": "m", "resources": [["file", "a"]], "mode": "shared", "priority": 1, "ttlMs": 1, "token": 7}
    return streams.SEEDS | {
        "frame": (encode_frame(MESSAGES), *(encode_frame((one,)) for one in MESSAGES)),
        "message": tuple(encode_message(one) for one in MESSAGES),
        "signed": (msgspec.msgpack.encode([OWNER, encode_message(MESSAGES[4]), b"s" * 64]),),
        "envelope": (encode_envelope(sound),),
        "update": (
            b"\0\0",
            *(Pen("mallory").update({("leases", key): value}) for key, value in (("n", 1), ("n", {"x": [1.5, "y"]}))),
            *_next_updates(),
        ),
        "record": (_record(),),
        "table": (json.dumps({"version": 1, "revision": 3, "done": {"ab": 1}}).encode(), json.dumps(row).encode()),
        "document_entry": (
            b'{"change":"modified","mode":"100644","blob":"' + b"a" * 40 + b'","hunks":[[0,1,"x"],[2,0,"y"]]}',
            b'{"base":"' + b"a" * 40 + b'","agent":"m","branch":"b","leftOut":1}',
            json.dumps(entry).encode(),
            json.dumps(history).encode(),
            _work().encode(),
        ),
        "call": (
            b'{"jsonrpc":"2.0","id":1,"method":"lease.acquire","params":{"resources":[["file","a"]]}}',
            b'{"jsonrpc":"2.0","id":1,"result":{"conflicts":[]}}',
            b'{"jsonrpc":"2.0","method":"event","params":{"type":"x","agentId":"a","timestamp":"t","data":{}}}',
        ),
        "hello": (b"\0\0\0\x16SCSY\x01\x01instance\0\0\0\0\0\0\0\1",),
        "names": (b"src/*.py\nsrc/a.py", "**/[!a-z]?/\\*\n./é/".encode(), b"#42\n42", b"-x\n:(top)a"),
        "patch": (
            b"diff --git a/0 b/0\nindex 1..2 100644\n@@ -1,2 +1 @@\n-a\n-b\n+c\n\\ No newline at end of file\n",
            b"a\n<<<<<<< x\nb\n=======\nc\n>>>>>>> y\n",
            b"tree\x00100644 b 1\ta\x00100644 c 2\ta\x00\x001\x00a\x00CONFLICT (contents)\x00words\x00",
            b"# branch.oid 1\x00# branch.head main\x001 .M N... 100644 100644 100644 a b c d\x00? e\x00",
        ),
        "tree": (b"100644 a\0" + b"1" * 20, b"40000 leases\0" + b"1" * 32),
        "addresses": (f"/ip4/127.0.0.1/tcp/1/p2p/{OWNER}\n/dns4/a.example/tcp/2/ws\n/ip6/::1/tcp/3".encode(),),
        "y_websocket": (
            b"\0\0\1\0",
            b"\0\0\5\2\5\1\7\3",
            b"\0\1\2\0\0",
            b"\0\2" + bytes((len(sound.update),)) + sound.update,
            y_protocol.encode_awareness([y_protocol.State(11, 1, '{"name":"\u00e9"}')]),
            b"\3",
            b"\2\0\1x",
        ),
        "config": (b'agent_id = "a"\nlease_ttl_ms = 1000\nlisten_addresses = ["/ip4/0.0.0.0/tcp/0"]\n',),
    }


def _next_updates() -> list[bytes]:
    """What may come next in the feed that has begun."""
    found = []
    steps: list[Any] = [{("leases", "a"): 3}, {("leases", "a"): None}, {("leases", "c"): "again"}, {("specUpdates", "d"): [{}]}]
    for writes in steps:
        pen, _ = begun()
        found.append(pen.update(writes))
    return found


def _record() -> bytes:
    from sudocode_coordination.core.records import build_record

    return build_record(
        KEYRING, agent_id="ann", multiaddrs=("/ip4/1.2.3.4/tcp/5",), capabilities=("code",), wall_ms=1, ttl_ms=60_000
    )


def _work() -> str:
    return json.dumps(
        {"files": ["a", "b/"], "issues": ["1"], "specs": [], "startedAt": "x", "updatedAt": "y", "metadata": {"a": 1}}
    )


def y_websocket(data: bytes) -> None:
    """What a client of the bridge says; the document stays as it is, and what others are told can be read again."""
    room = Room("r", Mirror(5))
    room.mirror.change([Change("leases", "a/x", 1)])
    told: list[bytes] = []
    other, client = Client(told.append), Client(told.append)
    room.joined(other)
    room.joined(client)
    with contextlib.suppress(ProtocolError):
        room.heard(client, data)
    room.left(client)
    for message in told:
        y_protocol.decode(message)
    assert room.mirror.content() == {("leases", "a/x"): 1}


def parsers() -> dict[str, Parser]:
    """By name."""
    runs = (
        *(frame, message, signed, envelope, update, record, table, document_entry, call, hello, names, tree, addresses, config),
        *(patch, y_websocket, streams.muxer, streams.hole_punch),
    )
    seeds = _seeds()
    return {run.__name__: Parser(run, seeds[run.__name__]) for run in runs} | {"node": Parser(WholeNode(), whole_node.seeds())}
