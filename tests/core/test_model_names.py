"""What `docs/model/README.md` says of the code is so: each function that it names exists, and names its actions; and each action
that a function names is one of the models, and in the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "src" / "sudocode_coordination" / "core"
MODELS = ROOT / "docs" / "model"
HELPERS = frozenset({"forget_ack", "forget_peer", "blank", "begin", "evaluate", "tick"})
"""Parts of an action of the models, or time: no function of the code."""


def table() -> dict[tuple[str, str], set[str]]:
    """(module, function) -> actions."""
    text = (MODELS / "README.md").read_text()
    found: dict[tuple[str, str], set[str]] = {}
    for row in text[text.index("## Which action is which function") :].splitlines():
        if not row.startswith("| `"):
            continue
        actions, functions = (part.strip() for part in row.strip("|").split(" | ", 1))
        for group in functions.split(";"):
            module, *names = re.findall(r"`([\w.]+)`", re.sub(r"\([^)]*\)", "", group))
            for name in (name.rsplit(".", 1)[-1] for name in names):
                if not name[0].isupper() and name not in {"Bye", "voices"}:
                    found.setdefault((module, name), set()).update(re.findall(r"`(\w+)`", actions))
    return found


def actions(kind: str = r"inline|#define|byte|bit") -> set[str]:
    """What the models define."""
    text = "".join((MODELS / name).read_text() for name in ("leases.pml", "roster.pml"))
    return set(re.findall(rf"^(?:{kind}) (\w+)", text, re.MULTILINE))


def named(docstring: str) -> set[str]:
    """The actions that it begins with."""
    match = re.match(r"`\w+`(?:, (?:of )?`\w+`)*:", docstring)
    return set(re.findall(r"`(\w+)`", match[0])) if match else set()


def docstrings() -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for path in sorted(CORE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                found[path.name, node.name] = text
    return found


def test_every_function_that_the_model_names_exists_and_names_its_action() -> None:
    said = docstrings()
    assert len(table()) > 35
    for function, expected in sorted(table().items()):
        assert function in said, f"{function} does not say what it does"
        assert named(said[function]) & expected, f"{function}: none of {sorted(expected)}"


def test_every_action_that_a_function_names_is_in_the_models_and_in_the_table() -> None:
    known, rows = actions(), table()
    assert len(known) > 100
    for function, text in docstrings().items():
        for action in named(text) & known:
            assert action in rows.get(function, set()), f"{function} names {action}, which the table does not"
    for function, listed in rows.items():
        assert listed <= known, f"{function}: {sorted(listed - known)} are not in the models"


def test_every_action_of_the_models_is_some_function() -> None:
    assert actions("inline") - HELPERS <= set().union(*table().values())
    assert actions("inline") >= HELPERS
