"""Keep the exact versions in `pyproject.toml` (`[tool.uv]`: `constraint-dependencies`, `build-constraint-dependencies`) complete.

    uv run scripts/update_pins.py            add what is missing, drop what is gone, keep the versions
    uv run scripts/update_pins.py --upgrade  the newest versions that fit together
    uv run scripts/update_pins.py --check    offline: everything installed for this project is pinned, at that version

The lists name versions and no addresses, so they work with any package index or mirror; `uv.lock` would name one, and is
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
RUN: Final = "constraint-dependencies"
BUILD: Final = "build-constraint-dependencies"


def read_pins(pyproject: str, name: str = RUN) -> dict[str, set[str]]:
    """Pinned versions by canonical name."""
    pins: dict[str, set[str]] = {}
    for line in tomllib.loads(pyproject)["tool"]["uv"][name]:
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


def resolve_build(pyproject: str) -> list[str]:
    """All that building the package takes: `name==version`."""
    project = tomllib.loads(pyproject)
    with tempfile.TemporaryDirectory(prefix="pins-") as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(project["tool"]["uv"][BUILD]), "utf-8")
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate", "--python-version=3.11"]
        done = subprocess.run(
            [*command, "--constraints", str(constraints), "-"],
            check=True,
            cwd=folder,
            input="\n".join(project["build-system"]["requires"]),
            capture_output=True,
            text=True,
        )
    return sorted(line for line in done.stdout.splitlines() if "==" in line)


def rewrite(pyproject: str, name: str, lines: list[str]) -> str:
    """The file with these pins in place of a list's own."""
    body = "".join(f'  "{line}",\n' for line in lines)
    pattern = re.compile(rf"^{name} = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)
    if not pattern.search(pyproject):
        raise SystemExit(f"{PYPROJECT} has no list {name} to rewrite")
    return pattern.sub(lambda _: f"{name} = [\n{body}]\n", pyproject, count=1)


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
    wrong = [f"{name}: no exact versions of what builds the package" for name in [BUILD] if not read_pins(text, name)]
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
    base = rewrite(rewrite(text, RUN, []), BUILD, []) if options.upgrade else text
    new = rewrite(rewrite(text, RUN, resolve(base)), BUILD, resolve_build(base))
    if new != text:
        PYPROJECT.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
