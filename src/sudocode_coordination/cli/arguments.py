"""What stands on the command line, as values: durations, `key=value` pairs, priorities."""

from __future__ import annotations

import argparse
import json
import re
from typing import Final

from sudocode_coordination.errors import UsageError
from sudocode_coordination.model import Json

_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
MAX_DURATION_MS: Final = 365 * 86_400_000
"""Nobody means more than a year; a slip of the finger does."""
MAX_PRIORITY: Final = 1_000_000
"""That of `api.requests.AcquireLease`."""


def parse_duration(text: str) -> int:
    """Milliseconds of `500ms`, `90s`, `5m`, `1h30m`, `1.5h`; a bare number is seconds.

    Raises:
        UsageError: it is no duration, or is over a year.
    """
    compact = text.strip().lower()
    total = 0.0
    position = 0
    if re.fullmatch(r"\d+(?:\.\d+)?", compact, re.ASCII):
        total = float(compact) * 1000
    else:
        while position < len(compact):
            part = _PART.match(compact, position)
            if part is None:
                break
            total += float(part[1]) * _UNIT_MS[part[2]]
            position = part.end()
        if not compact or position != len(compact):
            raise UsageError(f"{text!r} is no duration", hint="write it like 500ms, 90s, 5m or 1h30m")
    if total > MAX_DURATION_MS:
        raise UsageError(f"{text!r} is over a year", hint="write it like 500ms, 90s, 5m or 1h30m")
    return round(total)


def duration(text: str) -> int:
    """`parse_duration` for argparse."""
    try:
        return parse_duration(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}; {error.hint}") from None


def priority(text: str) -> int:
    """A lease's priority for argparse."""
    if not re.fullmatch(r"[-+]?\d{1,7}", text, re.ASCII) or abs(int(text)) > MAX_PRIORITY:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}")
    return int(text)


def port(text: str) -> int:
    """A TCP port for argparse; 0 is any that is free."""
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port (0 to 65535)")
    return int(text)


def key_values(pairs: list[str], option: str) -> dict[str, Json]:
    """`KEY=VALUE` pairs; a value that is JSON is taken as that, any other as text. Keys may come once.

    Raises:
        UsageError: no `=`, an empty key, or a key twice.
    """
    found: dict[str, Json] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{option} {pair!r} is not KEY=VALUE", hint=f"for example {option} priority=2")
        if key in found:
            raise UsageError(f"{option} names {key!r} twice", hint="give each key once")
        found[key] = _json_or_text(value)
    return found


def _json_or_text(text: str) -> Json:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text
    except RecursionError:
        raise UsageError("a value is nested too deep", hint="JSON of a few levels can be shared") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def word_list(texts: list[str] | None) -> tuple[str, ...] | None:
    """Words of `a,b` and of repeated options, in order; None if the option was not given."""
    if texts is None:
        return None
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())
