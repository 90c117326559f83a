"""Keep the list of exact versions in `pyproject.toml` (`[tool.uv] constraint-dependencies`) complete.

    uv run scripts/update_pins.py            add what is missing, drop what is gone, keep the versions
    uv run scripts/update_pins.py --upgrade  the newest versions that fit together
    uv run scripts/update_pins.py --check    offline: everything installed for this project is pinned, at that version

The list names versions and no addresses, so it works with any package index or mirror; `uv.lock` would name one, and is
therefore not kept in git.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parent.parent
PYPROJECT: Final = ROOT / "pyproject.toml"
PINS: Final = re.compile(r"^constraint-dependencies = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)


def read_pins(pyproject: str) -> dict[str, set[str]]:
    """Pinned versions by canonical name."""
    pins: dict[str, set[str]] = {}
    for line in tomllib.loads(pyproject)["tool"]["uv"].get("constraint-dependencies", []):
        requirement = Requirement(line)
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==":
            raise SystemExit(f"not an exact pin: {line}")
        pins.setdefault(canonicalize_name(requirement.name), set()).add(specifiers[0].version)
    return pins


def resolve(pyproject: str) -> list[str]:
    """Every dependency, direct or not, on every platform and Python that the project allows: `name==version [; marker]`."""
    with tempfile.TemporaryDirectory(prefix="pins-") as folder:
        Path(folder, "pyproject.toml").write_text(pyproject, "utf-8")
        subprocess.run(["uv", "lock", "--quiet", "--directory", folder], check=True, stdin=subprocess.DEVNULL)
        lock: dict[str, Any] = tomllib.loads(Path(folder, "uv.lock").read_text("utf-8"))
    lines = []
    for package in lock["package"]:
        if "version" not in package or "editable" in package["source"]:
            continue
        markers = package.get("resolution-markers", [])
        suffix = f" ; {' or '.join(f'({m})' for m in markers)}" if markers else ""
        lines.append(f"{package['name']}=={package['version']}{suffix}")
    return sorted(lines)


def rewrite(pyproject: str, lines: list[str]) -> str:
    """The file with these pins in place of its own."""
    body = "".join(f'  "{line}",\n' for line in lines)
    if not PINS.search(pyproject):
        raise SystemExit(f"{PYPROJECT} has no constraint-dependencies list to rewrite")
    return PINS.sub(lambda _: f"constraint-dependencies = [\n{body}]\n", pyproject, count=1)


def closure(roots: list[str]) -> dict[str, str]:
    """What is installed of these requirements and all that they require in turn: canonical name -> version."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in roots]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        found[name] = distribution.version
        waiting.extend(
            child
            for child in map(Requirement, distribution.requires or [])
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in (*extras, ""))
        )
    return found


def check() -> list[str]:
    """What is wrong with the pins, one line each; needs no network."""
    text = PYPROJECT.read_text("utf-8")
    project = tomllib.loads(text)
    pins = read_pins(text)
    installed = closure([*project["project"]["dependencies"], *project["dependency-groups"]["dev"]])
    wrong = []
    for name, version in sorted(installed.items()):
        if name not in pins:
            wrong.append(f"{name} {version} is installed and not pinned: uv run scripts/update_pins.py")
        elif version not in pins[name]:
            wrong.append(f"{name} {version} is installed, {' or '.join(sorted(pins[name]))} is pinned: uv sync")
    return wrong


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: nothing to do or done; 1: the check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--upgrade", action="store_true", help="take the newest versions that fit together")
    group.add_argument("--check", action="store_true", help="only look, offline")
    options = parser.parse_args(argv)
    if options.check:
        wrong = check()
        sys.stdout.writelines(line + "\n" for line in wrong)
        return 1 if wrong else 0
    text = PYPROJECT.read_text("utf-8")
    new = rewrite(text, resolve(rewrite(text, []) if options.upgrade else text))
    if new != text:
        PYPROJECT.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
