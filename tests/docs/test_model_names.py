"""The tables of docs/model/README.md name actions that the model has, and functions that the code has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.docs.blocks import ROOT

MODEL = ROOT / "docs" / "model"
CORE = ROOT / "src" / "sudocode_coordination" / "core"
ROW = re.compile(r"^\| (`[^|]+`) \| (`\w+\.py`[^|]*) \|$", re.MULTILINE)


def rows() -> list[tuple[list[str], str]]:
    """Of both tables: the names of actions, and the cell with files and functions."""
    return [(re.findall(r"`([^`]+)`", left), right) for left, right in ROW.findall((MODEL / "README.md").read_text("utf-8"))]


def names_in(path: Path) -> set[str]:
    """Functions and classes of a file, `Class.member`s, and what it uses by name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            found.add(node.arg)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    found.add(f"{node.name}.{member.name}")
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    found.add(f"{node.name}.{member.target.id}")
    return found


def test_every_function_is_in_the_file_that_is_named() -> None:
    assert len(rows()) > 25
    missing = []
    for _, cell in rows():
        for part in re.split(r";\s*", cell):
            file, *functions = re.findall(r"`([^`]+)`", part)
            known = names_in(CORE / file)
            missing += [f"{file}: {name}" for name in functions if name not in known]
    assert missing == []


def test_every_action_is_in_a_model() -> None:
    models = (MODEL / "leases.pml").read_text("utf-8") + (MODEL / "roster.pml").read_text("utf-8")
    assert [name for names, _ in rows() for name in names if not re.search(rf"\b{name}\b", models)] == []
