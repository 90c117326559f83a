"""Names of files mean what git's pathspecs mean, and overlap where git finds a file for both; where this differs, it says so."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.resources import matches, normalise, overlap
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource
from sudocode_coordination.place import find_clone, repo_relative


def file(path: str) -> Resource:
    return normalise(Resource("file", path))


def _or_none(path: str) -> Resource | None:
    try:
        return file(path)
    except ResourceError:
        return None


CURIOUS = tuple(
    r"""
    a b ab abc a.py src/a.py src/b.c src/x/a.py src/x/y/a.py x/src/a.py [a] [a]/b [ b[ ] a] * ** */a a* a? ? ! ^ - \ a\
    a\b \a d/** d/a/b/c d/[!a]/c e/f e/f-g [[:digit:]] 1 A f/.hidden .dot ..x g/- g/] g/[ g/^ g/! g/a g/\ h/i/j/k/l :x
    """.split()  # noqa: SIM905
)
ASKED = tuple(
    r"""
    * ** **/* */* **/a.py src/** src/**/ src/**/a.py **/src/** src/* src/*/ src/**.py s**/a.py [a] [!a] [^a] []] []-a]
    [!]a] [a-] [--b] [\]] [\a-c] [a-\c] [[:digit:]] [[:alpha:]x] [[:nope:]] [[:] [[:a] [b-a] [a b[ [ [[] a\ a\\ \* \[a]
    a\b ? ?? ??? *** */** **/** **/**/a ***/a d/**/**/c d/\** **\/a src\/a.py e/f e/ [!-] g/[!a] g/[]] g/[[] g/[\]
    g/[^]] h/**/l h/*/j/**/l h/**/**/l **/h/**/l/** *a* *a*b* a**b g/[!-^] [] [!] [^] g/[[:punct:]]
    """.split()  # noqa: SIM905
)


@pytest.fixture(scope="module")
def curious(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose index has the curious names; there need be no files."""
    folder = tmp_path_factory.mktemp("curious")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    lines = "".join(f"100644 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 0\t{name}\0" for name in _compatible(CURIOUS))
    subprocess.run(["git", "-C", str(folder), "update-index", "-z", "--index-info"], input=lines.encode(), check=True)
    return folder


def _compatible(names: tuple[str, ...]) -> list[str]:
    """Without those that would have to be a file and a folder."""
    return [name for name in names if not any(other.startswith(name + "/") for other in names)]


def _listed(folder: Path, pattern: str) -> set[str]:
    wanted = [f":(glob){pattern}"]
    if pattern.endswith("/"):
        name = pattern.rstrip("/")
        wanted += [f":(glob){name}", f":(glob){name}/**"]
    found = subprocess.run(["git", "-C", str(folder), "ls-files", "-z", *wanted], check=True, capture_output=True).stdout.decode()
    return set(found.split("\0")) - {""}


def _agrees(folder: Path, pattern: str) -> None:
    name = file(pattern)
    mine = {path for path in _compatible(CURIOUS) if matches(name, path)}
    listed = _listed(folder, pattern)
    literally_below = set() if pattern.endswith("/") else {path for path in listed if path.startswith(name.path + "/")}
    assert mine - listed == set(), pattern
    assert listed - mine <= literally_below, pattern
    index = Overlap()
    index.add("c", (name,))
    assert all(index.touches(asked) for asked in map(_or_none, mine) if asked is not None)


@pytest.mark.parametrize("pattern", ASKED)
def test_a_pattern_means_what_it_means_to_git(curious: Path, pattern: str) -> None:
    _agrees(curious, pattern)


def test_random_patterns_mean_what_they_mean_to_git(curious: Path) -> None:
    dice = random.Random(7)
    tried = 0
    while tried < 300:
        pattern = "".join(dice.choices("ab/*?[]!^-\\g", weights=(4, 2, 3, 5, 2, 3, 3, 1, 1, 1, 1, 2), k=dice.randint(1, 9)))
        if _or_none(pattern) is not None and not pattern.startswith("/"):
            tried += 1
            _agrees(curious, pattern)


# --- generated trees --------------------------------------------------------------------------------------------------------

PARTS = ("a", "b", "a.py", "b.md", "[a]")
WILD = ("*", "**", "?", "[ab]", "*.py", "[!a]*", "a*", "[a]")


def _tree(folder: Path, dice: random.Random) -> list[str]:
    """A checkout with a few files and folders; its files."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    for _ in range(dice.randint(3, 9)):
        path = folder.joinpath(*dice.choices(PARTS, k=dice.randint(1, 3)))
        if any(above.is_file() for above in path.parents) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["git", "-C", str(folder), "add", "."], check=True)
    return sorted(_listed(folder, "**"))


def _names(dice: random.Random, files: list[str]) -> list[str]:
    """Names to ask for: of files and folders that are there, of others, and patterns."""
    there = sorted({"/".join(path.split("/")[: n + 1]) for path in files for n in range(path.count("/") + 1)})
    some = dice.sample(there, min(5, len(there)))
    made = ["/".join(dice.choices((*PARTS, *WILD), k=dice.randint(1, 3))) for _ in range(8)]
    return sorted({name + dice.choice(("", "", "/")) for name in (*some, *made)})


@pytest.mark.parametrize("seed", range(8))
def test_names_in_a_checkout_mean_and_overlap_as_git_says(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    files = _tree(tmp_path, dice)
    clone = find_clone(tmp_path)
    given = _names(dice, files)
    names = {name: file(repo_relative(clone, tmp_path, name)) for name in given}
    # A slash at the end of a pattern is ours alone (to git nothing ends in one): it is asked for as git can say it.
    listed = {name: _listed(tmp_path, resource.path) for name, resource in names.items()}
    for name, resource in names.items():
        assert {path for path in files if matches(resource, path)} == listed[name], name
        if resource.path == name or not set("*?[") & set(name):
            assert listed[name] == _listed(tmp_path, name if resource.path.endswith("/") else name.rstrip("/")), name
        # As the client names it, a folder has its slash: then overlap is what git finds, without exception.
        for other in given:
            if listed[name] & listed[other]:
                assert overlap(resource, names[other]), (name, other)


@pytest.mark.parametrize("seed", range(8))
def test_where_a_name_as_it_is_written_differs_from_git(tmp_path: Path, seed: int) -> None:
    """Two names for which git finds the same file overlap, but for one case, which is meant: a plain name without a slash
    that git takes for a folder, and a pattern that does not lie in it (or a pattern's own letters, taken for a folder)."""
    dice = random.Random(1_000 + seed)
    files = _tree(tmp_path, dice)
    given = [name.rstrip("/") for name in _names(dice, files)]
    listed = {name: _listed(tmp_path, name) for name in given}
    for one in given:
        for two in given:
            if listed[one] & listed[two] and not overlap(file(one), file(two)):
                as_folder = [name for name in (one, two) if (tmp_path / name).is_dir()]
                assert as_folder, (one, two)
                assert any(set("*?[") & set(name) for name in (one, two))
                assert any(overlap(file(name + "/"), file(two if name == one else one)) for name in as_folder)


def test_a_file_is_not_in_the_way_of_patterns_for_other_files() -> None:
    assert not overlap(file("src/a.py"), file("**/*.md"))
    assert overlap(file("src/a.py/"), file("**/*.md")), "if it were a folder"
    for one, two in [("src/**", "src/a/f.py"), ("src/*/f.py", "src/a/*"), ("./src/a", "src/a/")]:
        assert overlap(file(one), file(two))
