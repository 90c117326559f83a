"""What `docs/model/README.md` says of the code is so: each function that it names exists, and names its action."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "src" / "sudocode_coordination" / "core"
UNNAMED = frozenset({"established", "standing", "told", "message_of", "remembers", "changed", "greet"})
"""Parts of an action whose other parts name it."""


def table() -> dict[tuple[str, str], set[str]]:
    """(module, function) -> actions."""
    text = (ROOT / "docs" / "model" / "README.md").read_text()
    found: dict[tuple[str, str], set[str]] = {}
    for row in text[text.index("## Which action is which function") :].splitlines():
        if not row.startswith("| `"):
            continue
        actions, functions = (part.strip() for part in row.strip("|").split(" | ", 1))
        for group in functions.split(";"):
            module, *names = re.findall(r"`([\w.]+)`", re.sub(r"\([^)]*\)", "", group))
            for name in names:
                if name.islower() or name.startswith("_"):
                    found.setdefault((module, name), set()).update(re.findall(r"`(\w+)`", actions))
    return found


def test_every_function_that_the_model_names_exists_and_names_its_action() -> None:
    named = table()
    assert len(named) > 30
    for (module, name), actions in sorted(named.items()):
        match = re.search(rf'def {name}\(.*?:\n\s+"""(.*?)"""', (CORE / module).read_text(), re.DOTALL)
        assert match, f"{module} has no {name} that says what it does"
        if name not in UNNAMED:
            assert any(match[1].startswith(f"`{action}`") for action in actions), f"{module} {name}: none of {sorted(actions)}"
