"""Issues and specs as files of the repository: the text of a file with fields of one issue or spec written into it.

Two layouts are known: sudocode's, one JSON object a line in `.sudocode/issues.jsonl` and `.sudocode/specs.jsonl`, and Markdown
with YAML front matter. Laws: fields that are not written stay as they are, to the letter; writing the same twice is the same as
once, but for the time of the change.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from sudocode_coordination.errors import CoordinationError

Json: TypeAlias = Any
Kind: TypeAlias = Literal["issue", "spec"]
LISTS: Final[dict[Kind, str]] = {"issue": ".sudocode/issues.jsonl", "spec": ".sudocode/specs.jsonl"}
ISSUES_FOLDER: Final = "issues"
"""Of plain issue files; specs have their own path."""
_BODY: Final = "content"
"""The field that is the text below the front matter."""
_TEMPORARY: Final = re.compile(r"temp([A-Z])")
_PLAIN_SCALAR: Final = re.compile(r"[A-Za-z][A-Za-z0-9 _./@-]*[A-Za-z0-9]")
_NOT_PLAIN: Final = frozenset(("true", "false", "null", "yes", "no", "on", "off"))


class Target(NamedTuple):
    """An issue or a spec."""

    kind: Kind
    name: str
    """An issue's id, a spec's path."""


def committed_fields(fields: Mapping[str, Json]) -> dict[str, Json]:
    """As they are called in a file: `tempTitle` is the title there."""
    return {_TEMPORARY.sub(lambda found: found[1].lower(), name, count=1) if name.startswith("temp") else name: value
            for name, value in fields.items()}  # fmt: skip


def path_of(target: Target, *, listed: bool) -> str:
    """Which file has it. `listed`: the repository has sudocode's lists."""
    if listed:
        return LISTS[target.kind]
    if target.kind == "spec":
        return target.name
    return f"{ISSUES_FOLDER}/{re.sub(r'[^A-Za-z0-9._-]+', '-', target.name).strip('-.') or 'issue'}.md"


def in_list(text: str, target: Target, fields: Mapping[str, Json], now: datetime) -> str:
    """A list of sudocode's with the fields written.

    Raises:
        CoordinationError: a line of it is no JSON object.
    """
    stamp = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    lines = text.removesuffix("\n").split("\n") if text else []  # `splitlines` knows other ends of lines
    for number, line in enumerate(lines):
        entry = _parsed(line, number + 1)
        if entry is not None and _is(entry, target):
            before = dict(entry)
            entry.update(fields)
            if entry == before:
                return text
            if fields.get("status") == "closed" and before.get("status") != "closed":
                entry["closed_at"] = stamp
            entry["updated_at"] = stamp
            lines[number] = _line(entry)
            return "\n".join(lines) + "\n"
    fresh: dict[str, Json] = {
        "id": target.name if target.kind == "issue" else _stem(target.name),
        "uuid": str(uuid.uuid4()),
        "title": target.name,
        **({"file_path": target.name} if target.kind == "spec" else {"status": "open"}),
        _BODY: "",
        "priority": 2,
        "created_at": stamp,
        "updated_at": stamp,
        "relationships": [],
        "tags": [],
    }
    return "\n".join([*lines, _line(fresh | dict(fields))]) + "\n"


def in_markdown(text: str | None, target: Target, fields: Mapping[str, Json]) -> str:
    """A Markdown file with the fields in its front matter, and `content` as what is below it."""
    front, body = _split(text or "")
    values = {name: value for name, value in fields.items() if name != _BODY}
    if text is None and target.kind == "issue":
        values = {"id": target.name, **values}
    for name, value in values.items():
        front = _with_key(front, name, value)
    if _BODY in fields:
        body = str(fields[_BODY]).rstrip("\n") + "\n"
    elif text is None:
        body = f"# {fields.get('title', target.name)}\n"
    head = "".join(("---\n", *(f"{line}\n" for line in front), "---\n")) if front else ""
    gap = "\n" if head and body and not body.startswith("\n") else ""
    return head + gap + body


# --- inside ---------------------------------------------------------------------------------------------------------------


def _parsed(line: str, number: int) -> dict[str, Json] | None:
    if not line.strip():
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise CoordinationError(f"line {number} is no JSON object", hint="put it right first, nothing was committed")
    return entry


def _is(entry: Mapping[str, Json], target: Target) -> bool:
    if target.kind == "issue":
        return target.name in (entry.get("id"), entry.get("uuid")) or target.name.lstrip("#") == str(entry.get("id"))
    path = str(entry.get("file_path") or "")
    return target.name in (entry.get("id"), entry.get("uuid"), path, f".sudocode/{path}") or _stem(target.name) == entry.get("id")


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".md")


def _line(entry: Mapping[str, Json]) -> str:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))


def _split(text: str) -> tuple[list[str], str]:
    """Lines of the front matter, and what is below it."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return [], text
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() in ("---", "..."):
            return lines[1:number], "\n".join(lines[number + 1 :])
    return [], text


def _with_key(front: list[str], name: str, value: Json) -> list[str]:
    """Lines of YAML with the key set; JSON is YAML, so values of any kind are written as that."""
    written = f"{_key(name)}: {_scalar(value)}"
    for number, line in enumerate(front):
        if line.startswith((f"{name}:", f"{_key(name)}:")):
            end = number + 1
            while end < len(front) and (front[end].startswith((" ", "\t", "- ")) or not front[end].strip()):
                end += 1
            return [*front[:number], written, *front[end:]]
    return [*front, written]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name) else json.dumps(name, ensure_ascii=False)


def _scalar(value: Json) -> str:
    if isinstance(value, str) and _PLAIN_SCALAR.fullmatch(value) and value.lower() not in _NOT_PLAIN:
        return value
    return json.dumps(value, ensure_ascii=False)
