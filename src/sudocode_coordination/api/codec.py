"""Requests, answers and events as bytes: newline-delimited JSON-RPC 2.0, one object a line, no batches.

    server -> client   {"jsonrpc":"2.0","method":"hello","params":{"api":1,"version":"0.1.0","pid":4711}}       first, unasked
    client -> server   {"jsonrpc":"2.0","id":1,"method":"check","params":{"resources":[["file","a.py"]]}}
    server -> client   {"jsonrpc":"2.0","id":1,"result":{"conflicts":[]}}                                    as each is ready
    server -> client   {"jsonrpc":"2.0","id":2,"error":{"code":-32000,"message":"…","data":{"code":"held","hint":"…"}}}
    client -> server   {"jsonrpc":"2.0","method":"cancel","params":{"id":1}}                                  nobody waits any more
    server -> client   {"jsonrpc":"2.0","method":"event","params":{…}}                                          after `events`
    server -> client   {"jsonrpc":"2.0","method":"overflow","params":{}}              the reader was too slow: no more events

A method's parameters are the fields of its request in `api/requests.py`; its result is that request's `answer`.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import msgspec

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import EVENT_NOTIFICATION, REQUESTS, R, Request, method_of
from sudocode_coordination.errors import CoordinationError, ProtocolError, error_from_code

API_VERSION: Final = 1
"""Raised when a request or an answer changes so that an older client would fail."""
MAX_REQUEST_BYTES: Final = 1 << 20
"""Longest line that a client may send: a thousand resources of a thousand characters."""
MAX_ANSWER_BYTES: Final = 64 << 20
"""Longest line that a client accepts: a status with a hundred thousand leases."""

MAX_JSON_DEPTH: Final = 64
"""Lists and objects in each other within a free-form value; far more than can be shared, far less than stacks are deep."""
INT_BITS: Final = 64
"""What the daemon's journal and disk can hold of an integer."""

HELLO: Final = "hello"
OVERFLOW: Final = "overflow"
CANCEL: Final = "cancel"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
UNKNOWN_METHOD: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
FAILED: Final = -32000
"""Everything that is not wrong with the call itself; `data.code` says what."""

CallId: TypeAlias = int | str | None


class ErrorData(msgspec.Struct, frozen=True):
    """What an error of ours adds to JSON-RPC's."""

    code: str = "failed"
    hint: str = ""


class RpcError(msgspec.Struct, frozen=True):
    """JSON-RPC's error object."""

    code: int
    message: str
    data: ErrorData = ErrorData()


class Hello(msgspec.Struct, frozen=True):
    """First line on every connection."""

    api: int
    version: str
    pid: int


class CallError(Exception):
    """A line from a client that is no call that can be carried out."""

    def __init__(self, call_id: CallId, error: RpcError) -> None:
        super().__init__(error.message)
        self.call_id = call_id
        self.error = error


class Cancel(msgspec.Struct, frozen=True):
    """The client no longer waits for the call of this id."""

    id: int | str


class Call(msgspec.Struct, frozen=True):
    """A request with the id that its answer will carry."""

    id: int | str
    request: Request[Any]


class _Line(msgspec.Struct):
    jsonrpc: str = ""
    id: CallId = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _ServerLine(msgspec.Struct):
    id: CallId = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: RpcError | None = None


class Answered(msgspec.Struct, frozen=True):
    """The answer to a call: an error, or the result still encoded."""

    id: CallId
    result: bytes = b""
    error: RpcError | None = None


class Overflowed(msgspec.Struct, frozen=True):
    """Events were not read fast enough, and have ended."""


ServerMessage: TypeAlias = Answered | Event | Hello | Overflowed

_NOT_READABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_line_decoder = msgspec.json.Decoder(_Line)
_any_decoder = msgspec.json.Decoder()
_server_line_decoder = msgspec.json.Decoder(_ServerLine)
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
_encode = msgspec.json.encode


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    found = _decoders.get(kind)
    if found is None:
        found = _decoders[kind] = msgspec.json.Decoder(kind)
    return found


def decode_call(line: bytes) -> Call | Cancel:
    """What a client asks.

    Raises:
        CallError: with the JSON-RPC error to answer with.
    """
    try:
        call = _line_decoder.decode(line)
    except msgspec.ValidationError as error:
        raise CallError(None, RpcError(INVALID_REQUEST, f"not a JSON-RPC 2.0 request: {error}", ErrorData("protocol"))) from None
    except _NOT_READABLE as error:
        raise CallError(None, RpcError(PARSE_ERROR, f"not JSON: {error}", ErrorData("protocol"))) from None
    if call.jsonrpc != "2.0" or not call.method:
        raise CallError(call.id, RpcError(INVALID_REQUEST, "not a JSON-RPC 2.0 request", ErrorData("protocol")))
    kind: Any = Cancel if call.method == CANCEL else REQUESTS.get(call.method)
    if kind is None:
        hint = "the daemon may be older than the client: `coord stop`, then `coord start`"
        raise CallError(call.id, RpcError(UNKNOWN_METHOD, f"unknown method {call.method!r}", ErrorData("usage", hint)))
    try:
        value = _decoder(kind).decode(call.params)
    except _NOT_READABLE as error:
        message, hint = _in_words(str(error))
        raise CallError(call.id, RpcError(INVALID_PARAMS, f"{call.method}: {message}", ErrorData("usage", hint))) from None
    if isinstance(value, Cancel):
        return value
    problem = _unfit(value)
    if problem is not None:
        raise CallError(call.id, RpcError(INVALID_PARAMS, f"{call.method}: {problem}", ErrorData("usage")))
    if call.id is None:
        raise CallError(None, RpcError(INVALID_REQUEST, f"{call.method}: a request needs an id", ErrorData("protocol")))
    return Call(call.id, value)


_OUT_OF_BOUNDS: Final = re.compile(r"Expected `(\w+)` (of length )?(<=|>=) (-?\d+) - at `\$\.?(.*)`")


def _in_words(problem: str) -> tuple[str, str]:
    """What the decoder finds wrong, and what to do: people meet these with words and numbers that they typed."""
    found = _OUT_OF_BOUNDS.fullmatch(problem)
    if found is None:
        return problem, ""
    kind, length, sign, bound, name = found.groups()
    unit = {"str": " characters", "array": " of them"}.get(kind, "") if length else ""
    if sign == "<=":
        return f"{name} must be at most {bound}{unit}", "make it shorter" if unit == " characters" else "give less"
    if length and bound == "1":
        return f"{name} must not be empty", "give one"
    return f"{name} must be at least {bound}{unit}", "give more"


def _unfit(request: object) -> str | None:
    """What is wrong with a request's free-form values, if anything: JSON has numbers and depths that nothing of ours can keep."""
    waiting: list[tuple[object, int]] = [(getattr(request, name, None), 0) for name in ("fields", "metadata")]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, int) and value.bit_length() >= INT_BITS:
            return f"an integer of {value.bit_length()} bits is too large: write it as text"
        if isinstance(value, dict | list):
            if depth > MAX_JSON_DEPTH:
                return f"nested deeper than {MAX_JSON_DEPTH}"
            waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
    return None


def encode_call(call_id: int, request: Request[Any]) -> bytes:
    """A request's line.

    Raises:
        ProtocolError: it is too long, or holds what JSON can't.
    """
    try:
        params = msgspec.to_builtins(request)
        del params["method"]
        line = _encode({"jsonrpc": "2.0", "id": call_id, "method": method_of(request), "params": params}) + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{method_of(request)}: {error}", hint="values must be what JSON can hold") from None
    if len(line) > MAX_REQUEST_BYTES:
        raise ProtocolError(f"{method_of(request)}: {len(line)} bytes are too many", hint=f"at most {MAX_REQUEST_BYTES} a request")
    return line


def encode_cancel(call_id: int) -> bytes:
    """The line that takes a call back."""
    return _encode({"jsonrpc": "2.0", "method": CANCEL, "params": {"id": call_id}}) + b"\n"


def encode_result(call_id: CallId, value: Any) -> bytes:
    """An answer's line.

    Raises:
        TypeError: the value holds what JSON can't (also ValueError and RecursionError).
    """
    return _encode({"jsonrpc": "2.0", "id": call_id, "result": value}) + b"\n"


def encode_error(call_id: CallId, error: RpcError) -> bytes:
    """An error's line."""
    return _encode({"jsonrpc": "2.0", "id": call_id, "error": error}) + b"\n"


def encode_event(event: Event) -> bytes:
    """An event's line."""
    return encode_notification(EVENT_NOTIFICATION, event)


def encode_notification(method: str, params: Any) -> bytes:
    """A line that the server sends unasked."""
    return _encode({"jsonrpc": "2.0", "method": method, "params": params}) + b"\n"


def decode_server_line(line: bytes) -> ServerMessage | None:
    """What the server says; None for notifications that this client does not know.

    Raises:
        ProtocolError: it is no line of ours.
    """
    try:
        message = _server_line_decoder.decode(line)
        if message.method is None:
            return Answered(message.id, bytes(message.result), message.error)
        kinds: dict[str, Any] = {EVENT_NOTIFICATION: Event, HELLO: Hello, OVERFLOW: Overflowed}
        kind = kinds.get(message.method)
        if kind is None:
            return None
        value: ServerMessage = _decoder(kind).decode(message.params)
    except _NOT_READABLE as error:
        raise ProtocolError(f"the daemon sent what is no message: {error}") from None
    return value


def answer_of(request: Request[R], answered: Answered) -> R:
    """The answer to a request.

    Raises:
        CoordinationError: the error that was answered.
        ProtocolError: the result is not what belongs to the request.
    """
    if answered.error is not None:
        raise to_exception(answered.error)
    try:
        value: R = _decoder(type(request).answer).decode(answered.result)
    except _NOT_READABLE as error:
        hint = "daemon and client may be of different versions: `coord stop`, then `coord start`"
        raise ProtocolError(f"{method_of(request)}: the daemon's answer does not fit: {error}", hint=hint) from None
    return value


def to_exception(error: RpcError) -> CoordinationError:
    """The exception that an error stands for."""
    return error_from_code(error.data.code, error.message, error.data.hint)
