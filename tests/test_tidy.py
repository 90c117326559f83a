"""The rules of this repository that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from scripts import make_reference, update_pins

import sudocode_coordination

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "src" / "sudocode_coordination"
MAX_LINES: Final = 500
"""A file that outgrows this holds two concepts."""
ALLOWED_IMPORTERS: Final = {
    "libp2p": ("adapters/libp2p",),
    "mcp": ("mcp/",),
    "multiaddr": ("adapters/libp2p",),
    "pycrdt": ("core/document.py",),
    "pydantic": ("mcp/",),
    "textual": ("views/",),
    "trio": ("adapters/", "daemon/", "agent", "bridge/", "replay/"),
    "wsproto": ("bridge/",),
}
"""Who may import what: beginnings of paths in the package."""


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports: modules, and what is taken out of them."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def test_every_module_is_named_in_a_test() -> None:
    tests = python_files("tests")
    imported = {name for path in tests for name in imports(path)}
    text = "\n".join(path.read_text("utf-8") for path in tests)
    modules = [path for path in python_files("src") if path.stem != "__init__"]
    # `__main__` is run with `python -m package`, so the package's name stands for it.
    missing = [
        name
        for name in (module_name(path).removesuffix(".__main__") for path in modules)
        if name not in imported and f'"{name}"' not in text
    ]
    assert missing == []


@pytest.mark.parametrize("library", sorted(ALLOWED_IMPORTERS))
def test_few_files_import_what_is_heavy(library: str) -> None:
    importers = {
        str(path.relative_to(PACKAGE))
        for path in python_files("src")
        if any(name == library or name.startswith(library + ".") for name in imports(path))
    }
    assert {name for name in importers if not name.startswith(ALLOWED_IMPORTERS[library])} == set()


def test_no_file_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in python_files("src", "tests", "scripts", "benchmarks")
        if (lines := len(path.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert long == {}


def test_only_the_command_line_prints() -> None:
    printing = {
        str(path.relative_to(PACKAGE))
        for path in python_files("src")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {name for name in printing if not name.startswith(("cli/", "sim/__main__"))} == set()


def test_nothing_is_left_to_do_in_comments() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files("src", "scripts", "benchmarks")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if mark.search(line)
    ]
    assert found == []


def test_every_module_and_public_class_of_the_package_says_what_it_is() -> None:
    silent = []
    for path in python_files("src"):
        tree = tree_of(path)
        if ast.get_docstring(tree) is None:
            silent.append(str(path.relative_to(PACKAGE)))
        # Requests whose name says it all have none (`ListPeers`).
        silent += [
            f"{path.relative_to(PACKAGE)}: {node.name}"
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and path.name != "requests.py"
            if ast.get_docstring(node) is None
        ]
    assert silent == []


def test_no_machine_shows_in_a_file() -> None:
    slash = "/"
    words = [
        rf"{slash}(home|Users){slash}[a-z]",
        rf"(?<![\w.]){slash}(root|work){slash}[a-z.]",
        "py" + r"pi\.org",
        "python" + "hosted",
        r"\bsite-" + r"packages\b.*\.venv",
    ]
    pattern = re.compile("|".join(words))
    found = []
    for path in tracked():
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # no text
        found += [f"{path.relative_to(ROOT)}:{number}: {line}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


def test_what_programs_have_made_is_not_kept() -> None:
    """Spin writes its verifier into the folder that it is run in; what takes an option for a folder makes one of that name."""
    names = [path.relative_to(ROOT).as_posix() for path in tracked()]
    assert [name for name in names if Path(name).stem == "pan" or name.startswith("-")] == []


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert version == sudocode_coordination.__version__
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_everything_installed_is_pinned() -> None:
    assert update_pins.check() == []


def test_the_two_exact_dependencies_stay_exact() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert {"libp2p==0.8.1", "pycrdt==0.14.13"} <= set(dependencies)


def test_the_reference_is_what_the_code_says() -> None:
    written = make_reference.REFERENCE.read_text("utf-8")
    assert written == make_reference.reference(), "run: uv run scripts/make_reference.py"


def test_the_reference_has_no_gaps() -> None:
    unexplained = [name for name, doc in make_reference.field_docs(sudocode_coordination.CoordinationConfig).items() if not doc]
    assert unexplained == []


def test_the_code_map_has_every_module_of_the_core() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    modules = [path.name for path in (PACKAGE / "core").glob("*.py") if path.stem != "__init__"]
    assert sorted(name for name in modules if f"`core/{name}`" not in text) == []


DOCUMENTS: Final = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
_FENCED: Final = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def test_modules_that_documents_name_exist() -> None:
    name = re.compile(
        r"`((?:adapters|agent|api|bridge|cli|client|core|daemon|hooks|mcp|replay|sim|views|tests|scripts|benchmarks)/[\w/.]+\.(?:py|mjs|pml|md)\b)"
    )
    missing = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in DOCUMENTS
        if path.parent.name != "adr"  # decisions name what there was, or was to be, when they were taken
        for module in name.findall(path.read_text("utf-8"))
        if not (PACKAGE / module).exists() and not (ROOT / module).exists()
    ]
    assert missing == []


def anchors(path: Path) -> set[str]:
    """Of a document's headings, as hosts make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    link = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
    broken = [
        f"{path.relative_to(ROOT)}: {target}#{anchor}"
        for path in DOCUMENTS
        for target, anchor in link.findall(path.read_text("utf-8"))
        if "://" not in target and not target.startswith("mailto:")
        for there in [path.parent / target if target else path]
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there))
    ]
    assert broken == []


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers
