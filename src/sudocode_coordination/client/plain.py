"""One question to the daemon with built-in modules alone, for what starts at every edit: `coord check` and the hooks of agents.

`_socket` and `_json` instead of `socket` and `json`, whose imports cost as much as Python's own start.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

API_VERSION = 1
"""As `api.codec.API_VERSION`, which is too costly to import; a test compares them."""
MAX_ANSWER_BYTES = 64 << 20
"""As the clients have it."""


class Failed(Exception):  # noqa: N818 - it is no error of ours
    """There is no answer; why, in words."""


class Refused(Exception):  # noqa: N818 - an answer
    """The daemon answered with an error: its message and hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class _Plain:
    """What `_json`'s scanner wants to know: everything as usual."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None


def parse(text: str) -> "Any":
    """A JSON document.

    Raises:
        Failed: it is none.
    """
    try:
        from _json import make_scanner
    except ImportError:  # a Python without C accelerators
        import json

        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Failed(f"no JSON: {error}") from None
    begin = len(text) - len(text.lstrip())
    try:
        value, end = make_scanner(_Plain())(text, begin)  # type: ignore[arg-type]  # typeshed names the class after its result
    except (ValueError, StopIteration, RecursionError, TypeError) as error:
        raise Failed(f"no JSON: {error}") from None
    if text[end:].strip():
        raise Failed("no JSON: something follows the document")
    return value


def quoted(text: str) -> str:
    """A JSON string, in ASCII."""
    try:
        from _json import encode_basestring_ascii

        return str(encode_basestring_ascii(text))
    except ImportError:
        import json

        return json.dumps(text)


def written(value: "Any") -> str:
    """A JSON document on one line, of None, booleans, whole numbers, text, lists and dicts with text for keys."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{quoted(key)}:{written(one)}" for key, one in value.items()) + "}"
    return "[" + ",".join(written(one) for one in value) + "]"


def ask(address: str, method: str, params: "dict[str, Any]", timeout_s: float) -> "Any":
    """The daemon's answer to one request.

    Args:
        address: of its socket.
        method: name of the request (`api/requests.py`).
        params: as they are encoded.
        timeout_s: for each step; the daemon answers out of its memory.

    Raises:
        Failed: no daemon answers there, or not in time, or it is of another version.
        Refused: it answered with an error.
    """
    import _socket

    call = written({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\n"
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address)
        connection.sendall(call.encode("utf-8", "replace"))
        received = b""
        while True:
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise Failed("the daemon closed the connection")
            received += chunk
            if len(received) > MAX_ANSWER_BYTES:
                raise Failed("the daemon's answer is too long")
            # Two lines: the greeting, which comes unasked, and the answer.
            greeting, newline, answer = received.partition(b"\n")
            if newline and answer.endswith(b"\n"):
                return _result(greeting, answer)
    except OSError as error:
        raise Failed(str(error) or type(error).__name__) from None
    finally:
        connection.close()


def _result(greeting: bytes, answer: bytes) -> "Any":
    try:
        hello = parse(greeting.decode())
        answered = parse(answer.decode())
        if hello["method"] != "hello" or hello["params"]["api"] != API_VERSION or answered["id"] != 1:
            raise Failed("the daemon speaks another version: coord stop, then coord start")
        if "result" in answered:
            return answered["result"]
        told = answered["error"].get("data") or {}
        raise Refused(str(answered["error"]["message"]), str(told.get("hint") or ""))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Failed(f"the daemon's answer is not understood: {error}") from None
