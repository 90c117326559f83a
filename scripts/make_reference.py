"""Write `docs/reference.md` from the code, so that it can't be wrong.

uv run scripts/make_reference.py           write it
uv run scripts/make_reference.py --check   exit code 1 if it is out of date
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec

from sudocode_coordination import config, errors
from sudocode_coordination.api import events, requests
from sudocode_coordination.cli.parser import build_parser

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "docs" / "reference.md"


def field_docs(cls: type) -> dict[str, str]:
    """The docstring below each field of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        doc = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            doc = inspect.cleandoc(str(following.value.value))
        found[statement.target.id] = " ".join(doc.split())
    return found


def type_name(annotation: Any) -> str:
    """What a value may be, in words."""
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        limits = [type_limits(extra) for extra in extras if isinstance(extra, msgspec.Meta)]
        return ", ".join([type_name(base), *filter(None, limits)])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list of text"
    return {int: "integer", str: "text", bool: "true or false", bool | None: "true or false"}[annotation]


def type_limits(meta: msgspec.Meta) -> str:
    """The allowed range of a number."""
    if meta.ge is not None and meta.le is not None:
        return f"{meta.ge:,} to {meta.le:,}"
    return f"at least {meta.ge:,}" if meta.ge is not None else ""


def default_text(value: Any) -> str:
    """A default as TOML would have it."""
    if value is msgspec.NODEFAULT:
        return "generated"
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{v}"' for v in value) + "]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, int) else f'`"{value}"`'


def configuration() -> list[str]:
    """The table of configuration keys."""
    docs = field_docs(config.CoordinationConfig)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(config.CoordinationConfig):
        meaning = docs[field.name].replace("|", "\\|")
        lines.append(f"| `{field.name}` | {type_name(field.type)} | {default_text(field.default)} | {meaning} |")
    return lines


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> list[str]:
    """A section for each command that does something, with its options."""
    lines: list[str] = []
    inherited = {"help", "json", "agent", "version"}
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if words and not groups:
        lines += [f"### `{' '.join(words)}`", "", _sentence(parser.description or ""), ""]
        lines += ["```text", " ".join([*words, *(_usage(a) for a in parser._actions if a.dest not in inherited)]), "```", ""]
        rows = []
        for action in parser._actions:
            if action.dest in inherited:
                continue
            name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            if action.option_strings and action.metavar:
                name += f" {action.metavar}"
            help_ = (action.help or "").replace("%%", "%")
            if action.choices:
                help_ = "; ".join(filter(None, [help_, "one of " + ", ".join(f"`{c}`" for c in action.choices)]))
            rows.append(f"| `{name}` | {help_} |")
        if rows:
            lines += ["| option | meaning |", "|---|---|", *rows, ""]
    for group in groups:
        for name, sub in group.choices.items():
            lines += commands(sub, (*(words or ("coord",)), name))
    return lines


def _usage(action: argparse.Action) -> str:
    """One argument; argparse's own form differs between versions of Python."""
    value = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest)
    if not action.option_strings:
        return {"*": f"[{value} ...]", "+": f"{value} [{value} ...]", "?": f"[{value}]"}.get(str(action.nargs), value)
    name = action.option_strings[0]
    many = " ..." if isinstance(action, argparse._AppendAction) else ""
    if action.nargs == 0:
        return f"[{name}]"
    return f"[{name} [{value}]]" if action.nargs == "?" else f"[{name} {value}]{many}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def error_table() -> list[str]:
    """Every error with its stable code."""
    lines = ["| code | exit code | class | meaning |", "|---|---|---|---|"]
    for code, cls in errors._tree(errors.CoordinationError).items():
        if cls.__module__ != errors.__name__:
            continue  # an error of somebody else's
        first = inspect.cleandoc(cls.__doc__ or "").split("\n")[0]
        lines.append(f"| `{code}` | {cls.exit_code} | `{cls.__name__}` | {first} |")
    return lines


def method_table() -> list[str]:
    """Every method of the socket API."""
    lines = ["| method | parameters | answer | meaning |", "|---|---|---|---|"]
    for method, cls in requests.REQUESTS.items():
        parameters = ", ".join(f"`{f.encode_name}`" for f in msgspec.structs.fields(cls)) or "none"
        own = cls.__dict__.get("__doc__")
        meaning = " ".join(inspect.cleandoc(own).split()) if own else ""
        lines.append(f"| `{method}` | {parameters} | {_answer_name(cls.answer)} | {meaning} |")
    return lines


def _answer_name(answer: Any) -> str:
    if get_origin(answer) is tuple:
        return f"list of `{get_args(answer)[0].__name__}`"
    return f"`{answer.__name__}`" if answer is not requests.Nothing else "nothing"


def event_table() -> list[str]:
    """The event types and what they carry, out of the docstring of `Event`: a line for each type, further ones indented.

    Raises:
        ValueError: it does not tell of exactly the types that there are.
    """
    told = re.sub(r"\n {4,}", " ", inspect.cleandoc(events.Event.__doc__ or ""))
    carried = dict(re.findall(r"^([a-z]+-[a-z]+): (.+)$", told, re.MULTILINE))
    if tuple(carried) != events.EVENT_TYPES:
        raise ValueError(f"the docstring of Event tells of {sorted(carried)}, there are {sorted(events.EVENT_TYPES)}")
    rows = [f"| `{name}` | {carried[name]} |" for name in events.EVENT_TYPES]
    return ["| type | `data` (all keys camelCase) |", "|---|---|", *rows]


def reference() -> str:
    """The whole file."""
    parts = [
        "# Reference",
        "",
        "<!-- Written by scripts/make_reference.py from the code. Change the code, then run it again. -->",
        "",
        "## Configuration",
        "",
        (
            f"Keys are set in `{config.CONFIG_FILE}` in the repository (TOML), by environment variables "
            f"(`{config.ENVIRONMENT_PREFIX}` and the key in capitals; commas separate the items of a list), "
            "or by flags of `coord start`. "
            "Flags go before the environment, the environment before the file, the file before the defaults. "
            "An unknown key or an impossible value is an error that names the key, the value and what is allowed. "
            "Durations are milliseconds."
        ),
        "",
        *configuration(),
        "",
        "## Commands",
        "",
        (
            "`sudocode coord …` does the same as `coord …`. Every command takes `--json` (one JSON document on standard output; "
            'errors as `{"error": {"code", "message", "hint"}}`) and `--agent ID` or `COORD_AGENT` '
            "(which agent of this clone acts; without it the daemon's default agent does). "
            "A duration is written like `500ms`, `90s`, `5m` or `1h30m`."
        ),
        "",
        "Exit codes: 0 done, 1 failed, 2 usage, 3 held by another, 4 no daemon.",
        "",
        *commands(build_parser()),
        "## Events",
        "",
        (
            "Each is `{type, agentId, timestamp, data}`. `agentId` is who it concerns: the holder of a lease, the agent of a peer, "
            "the author of work, whom a message is for or, once it is acknowledged, who sent it; `timestamp` is ISO 8601 UTC."
        ),
        "",
        *event_table(),
        "",
        "## Errors",
        "",
        "`code` is stable and is what `--json` prints; every error also has a `hint`, the next step.",
        "",
        *error_table(),
        "",
        "## Socket API",
        "",
        "JSON-RPC 2.0, one JSON document a line, on the daemon's Unix socket. `Client` and `AsyncClient` speak it for you.",
        "",
        *method_table(),
        "",
    ]
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: written, or up to date; 1: the check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    text = reference()
    if options.check:
        return 0 if REFERENCE.exists() and REFERENCE.read_text("utf-8") == text else 1
    REFERENCE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
