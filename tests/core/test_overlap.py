"""Which names overlap: against brute force over paths, against git itself, and what a hostile pattern can cost."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from functools import cache
from itertools import chain, product
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sudocode_coordination.core import resources as resources_module
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.patterns import (
    _LAST_CASED,
    MAX_PATTERN_CHARACTERS,
    MAX_WILDCARDS,
    Automaton,
    _with_folded,
    fold,
    meet,
    parse,
    wildcards,
)
from sudocode_coordination.core.resources import (
    MAX_PATH_CHARACTERS,
    MAX_PATTERNS,
    all_covered,
    covers,
    matches,
    name_of,
    normalise,
    normalise_all,
    overlap,
)
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource


def file(path: str) -> Resource:
    return normalise(Resource("file", path))


@pytest.mark.parametrize(
    ("one", "two", "both"),
    [
        ("src/**", "src/a/f.py", True),
        ("src/*/f.py", "src/a/*", True),
        ("./src/a", "src/a/", True),
        ("**/x", "y/*", True),
        ("src/a", "src/a", True),
        ("src/a", "src/a/b", True),
        ("src/a/", "src/a/b/c", True),
        ("src/a", "src/ab", False),
        ("src/a/", "src/b/", False),
        ("./", "any/thing", True),
        ("./", "./", True),
        ("./", "**", True),
        ("src/**", "src", True),
        ("src/**", "lib/a", False),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/a.c", False),
        ("src/*.py", "src/a/b.py", False),
        ("src/auth", "src/*/*.py", False),
        ("src/auth/", "src/*/*.py", True),
        ("src/auth", "src/*", True),
        ("src/auth", "src/auth/*.py", True),
        ("src/auth", "src/auth/**/x/", True),
        ("src", "src/auth/*.py", True),
        ("src/a.py", "**/*.md", False),
        ("src/a.py/", "**/*.md", True),
        ("src/a.py", "src/**/", True),
        ("app/[id]/", "app/[id]/x/*", True),
        ("app/[id]", "app/[id]/page", False),
        ("src/auth/user.py", "src/**/*.py", True),
        ("src/**/*.py", "src/**/*.c", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**b", "a/x/b", False),
        ("a**", "a/b", True),
        ("?**", "a/b", False),
        ("?**/c", "a/b/c", False),
        ("*", "a/b", False),
        ("*/", "a/b", True),
        ("[!a]", "[a]", False),
        ("[!a]", "[!b]", True),
        ("[a-c]x", "[c-f]x", True),
        ("[a-b]x", "[c-f]x", False),
        ("[[:digit:]]", "7", True),
        ("[[:digit:]]", "x", False),
        ("[]a]", "]", True),
        ("[^a]", "b", True),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("[id]/page", "[id]/page", True),
        ("[id]/page", "i/page", True),
        ("[id]/page", "x/page", False),
        ("app/[id]/", "app/[id]/page.tsx", True),
        ("u\u0308*", "\u00fcber", True),
        ("?", "ü", True),
        ("b[", "b[", True),
        ("b[", "bc", False),
    ],
)
def test_examples(one: str, two: str, both: bool) -> None:
    assert overlap(file(one), file(two)) == both
    assert overlap(file(two), file(one)) == both


# --- against brute force --------------------------------------------------------------------------------------------------

PARTS = {
    "a": "a",
    "b": "b",
    "*": ".*",
    "?": ".",
    "a*": "a.*",
    "*b": ".*b",
    "?b": ".b",
    "[ab]": "[ab]",
    "[!a]": "[^a]",
    "[!ab]": "[^ab]",
    "\\a": "a",
    "a[b-c]": "a[bc]",
    "?**": "..*",
}
"""Parts of patterns with what they mean as regular expressions, written down and not computed."""
NAMES = ("a", "b", "c", "ab", "bb", "ac")
"""Enough of them that any two parts that have a name in common have one of these."""
DEEP = "**"


def _plain(parts: tuple[str, ...]) -> bool:
    return all(part in ("a", "b") for part in parts)


def _meaning(parts: tuple[str, ...], slash: bool) -> re.Pattern[str]:
    """The regular expression of the paths that a name made of these parts stands for."""
    wild = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == DEEP:
            wild += "[^/]+(/[^/]+)*" if last else "([^/]+/)*"
        else:
            wild += f"(?=[^/])(?:{PARTS[part].replace('.', '[^/]')})" + ("" if last else "/")
    return re.compile(f"(?:{re.escape('/'.join(parts))}|{wild}){'(/.*)?' if slash else ''}", re.DOTALL)


def _in_folder(inner: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    """Whether a plain name is, letter by letter, one or a folder of the other, whose parts before a wildcard are what counts."""
    certain = inner[: next((n for n, part in enumerate(inner) if part not in ("a", "b")), len(inner))]
    return _plain(outer) and certain[: len(outer)] == outer


@cache
def _paths(extra: tuple[str, ...]) -> list[str]:
    names = sorted({*NAMES, *extra})
    return ["/".join(path) for length in range(1, 5) for path in product(names, repeat=length)]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[str, ...], bool]:
    parts = draw(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=2))
    where = draw(st.sets(st.integers(0, len(parts)), max_size=1))
    for at in sorted(where, reverse=True):
        parts.insert(at, DEEP)
    return tuple(parts), draw(st.booleans())


def _name(shape: tuple[tuple[str, ...], bool]) -> Resource:
    return file("/".join(shape[0]) + ("/" if shape[1] else ""))


def _all(shape: tuple[tuple[str, ...], bool], paths: list[str]) -> set[str]:
    return set(filter(_meaning(*shape).fullmatch, paths))


@settings(max_examples=300, deadline=None)
@given(shapes(), shapes())
def test_two_names_overlap_if_and_only_if_a_path_is_meant_by_both_or_one_is_a_folder_of_the_other(
    one: tuple[tuple[str, ...], bool], two: tuple[tuple[str, ...], bool]
) -> None:
    paths = _paths(tuple(sorted({*one[0], *two[0]} - {DEEP})))
    first, second = _all(one, paths), _all(two, paths)
    expected = bool(first & second) or _in_folder(one[0], two[0]) or _in_folder(two[0], one[0])
    assert overlap(_name(one), _name(two)) == expected
    assert overlap(_name(two), _name(one)) == expected
    index = Overlap()
    index.add("one", (_name(one),))
    assert index.touches(_name(two)) == expected
    if covers(_name(one), _name(two)):
        assert second <= first
    files = {path for path in paths if _plain(one[0]) and path.startswith("/".join(one[0]) + "/")} | first
    for path in random.Random(0).sample(paths, 50):
        assert matches(_name(one), path) == (path in files)


TOKENS = {"a": "a", "b": "b", "?": ".", "*": ".*", "[ab]": "[ab]", "[!a]": "[^a]"}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(TOKENS)), min_size=1, max_size=5),
    st.lists(st.sampled_from(sorted(TOKENS)), min_size=1, max_size=5),
)
def test_within_one_name_too(one: list[str], two: list[str]) -> None:
    one, two = [list(chain(*(t for t in tokens))) and tokens for tokens in (one, two)]
    texts = ["".join(tokens) for tokens in (one, two)]
    needed = sum(token != "*" for token in one + two)
    strings = ["".join(s) for length in range(1, min(needed, 7) + 2) for s in product("abc", repeat=length)][:4_000]
    plain = [all(token in ("a", "b") for token in tokens) for tokens in (one, two)]
    regexes = [re.compile("".join(TOKENS[token] for token in tokens)) for tokens in (one, two)]
    both = any(all(regex.fullmatch(s) or s == text for regex, text in zip(regexes, texts, strict=True)) for s in [*strings, *texts])
    found = overlap(file(texts[0]), file(texts[1]))
    assert found == overlap(file(texts[1]), file(texts[0]))
    if both or (needed <= 6 and not any(plain)):
        assert found == both


anything = st.text(alphabet="abAÄä/*?[]!^-\\.:", min_size=1, max_size=14)


def _or_none(path: str) -> Resource | None:
    try:
        return file(path)
    except ResourceError:
        return None


@settings(max_examples=500)
@given(anything, anything, anything)
def test_laws_of_any_names(x: str, y: str, z: str) -> None:
    one, two, three = (_or_none(path) for path in (x, y, z))
    if one is None or two is None or three is None:
        return
    assert overlap(one, one)
    assert overlap(one, two) == overlap(two, one)
    if covers(one, two) and overlap(two, three):
        assert overlap(one, three)
    if covers(one, two) and covers(two, three):
        assert overlap(one, three)
    assert overlap(one, file("./"))
    assert covers(file("./"), one)
    assert not overlap(one, two) or overlap(one, two, fold_case=True)
    assert overlap(one, two, fold_case=True) == overlap(two, one, fold_case=True)
    assert not covers(one, two, fold_case=True) or not overlap(two, three, fold_case=True) or overlap(one, three, fold_case=True)
    index = Overlap()
    index.add("one", (one, three))
    assert index.touches(two) == (overlap(one, two) or overlap(three, two))
    assert index.touches(two, fold_case=True) == (overlap(one, two, fold_case=True) or overlap(three, two, fold_case=True))


few_tokens = st.lists(
    st.sampled_from(["a", "A", "b", "B", "?", "*", "[a]", "[!a]", "[A-B]", "[Z-a]", "é", "É"]), min_size=1, max_size=3
)
"""So few that two names which have a path in common have one of four characters."""


@settings(max_examples=300, deadline=None)
@given(few_tokens, few_tokens)
def test_without_case_two_names_overlap_if_two_paths_do_that_are_equal_but_for_case(one: list[str], two: list[str]) -> None:
    def folded_paths(tokens: list[str]) -> set[str]:
        regex = re.compile("".join({"?": ".", "*": ".*", "[!a]": "[^a]"}.get(token, token) for token in tokens))
        return {p.lower() for p in cased if regex.fullmatch(p)} | {"".join(tokens).lower()}

    letters = {"".join(p) for tokens in (one, two) for p in product(*({c.lower(), c.upper()} for c in "".join(tokens)))}
    cased = [*letters, *("".join(p) for length in range(1, 5) for p in product("aAbBéÉ[", repeat=length))]
    first, second = folded_paths(one), folded_paths(two)
    found = overlap(file("".join(one)), file("".join(two)), fold_case=True)
    assert found == bool(first & second)


def test_the_case_of_letters() -> None:
    for one, two, plain, folded in [
        ("README.md", "readme.MD", False, True),
        ("[A-C]x", "bX", False, True),
        ("[!a]", "A", True, True),
        ("[!a]", "a", False, True),
        ("[!aA]", "a", False, False),
        ("[!ä]", "Ä", True, True),
        ("[!äÄ]", "ä", False, False),
        ("[[:upper:]]", "x", False, True),
        ("[Z-a]", "z", False, True),
        ("[À-Ý]", "é", False, True),
        ("*.PY", "a.py", False, True),
        ("Ü", "ü", False, True),
        ("ΜΆΪΟΣ", "μάϊος", False, True),
        ("straße", "STRASSE", False, False),
        ("?", "ß", True, True),
        ("I", "ı", False, False),
    ]:
        assert overlap(file(one), file(two)) == plain, (one, two)
        assert overlap(file(one), file(two), fold_case=True) == folded, (one, two)
        assert matches(file(one), two, fold_case=True) == folded
        for claimed, asked in [(True, True), (True, False), (False, True)]:
            index = Overlap()
            index.add("c", (file(one),), fold_case=claimed)
            assert index.touches(file(two), fold_case=asked) == folded
    assert covers(file("SRC/"), file("src/a"), fold_case=True)
    assert not covers(file("SRC/"), file("src/a"))
    assert all_covered([file("src/A")], [file("SRC/")], fold_case=True)
    assert all_covered([file("src/A")], [file("SRC/a")], fold_case=True)
    assert not all_covered([file("src/A/")], [file("SRC/a")], fold_case=True)
    assert name_of(file("SRC/A/"), fold_case=True) == name_of(file("src/a"), fold_case=True) != name_of(file("src/a/b"))


def test_folding_is_one_letter_for_one_and_done_once() -> None:
    for code in range(0x110000):
        folded = fold(chr(code))
        assert len(folded) == 1
        assert fold(folded) == folded
        if code >= _LAST_CASED:
            assert folded == chr(code)
        if folded != chr(code):
            assert folded in (chr(code).casefold(), chr(code).lower())


def test_runs_of_letters_fold_as_each_of_them() -> None:
    dice = random.Random(5)
    for _ in range(300):
        low = dice.choice([dice.randrange(0x600), dice.randrange(0x1E000, 0x20000), dice.randrange(0x2FFFF)])
        spans = ((low, low + dice.choice([0, 1, 30, 300])),)
        exact = {ord(fold(chr(code))) for a, b in spans for code in range(a, b + 1)}
        found = {code for a, b in _with_folded(spans) for code in range(a, b + 1)}
        assert exact <= found
        assert {ord(fold(chr(code))) for code in found} == exact, "what is there besides is no folded path's"


# --- against git ------------------------------------------------------------------------------------------------------------

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


# --- limits -------------------------------------------------------------------------------------------------------------------


def _calls(run: object) -> int:
    """How many functions are called: a measure of work that does not depend on the machine."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()  # type: ignore[operator]
    finally:
        sys.setprofile(before)
    return count


HOSTILE = [
    "*a" * MAX_WILDCARDS,
    "*" + "a" * (MAX_PATTERN_CHARACTERS - 2) + "*",
    "**/" * MAX_WILDCARDS + "a",
    "**/a/" * MAX_WILDCARDS + "b",
    "**/*" * (MAX_WILDCARDS // 2),
    "**/" + "a/" * 120 + "b",
    "a/" * 120 + "**",
    "*[!a]" * (MAX_WILDCARDS // 2) + "".join(chr(0x4E00 + n) for n in range(200)),
    "".join(chr(0x5E00 + n) for n in range(200)) + "[!b]*" * (MAX_WILDCARDS // 2),
    "**/" + "[!" + "".join(chr(0x3041 + 2 * n) for n in range(60)) + "]" + "".join(chr(0x4E00 + n) for n in range(150)) + "*",
    "**/*" + "[a-z0-9]" * (MAX_WILDCARDS - 3) + "*",
    "?" * MAX_WILDCARDS + "a" * 200,
    "[!a]" * MAX_WILDCARDS + "".join(chr(0x4E00 + n) for n in range(190)),
    "**/" + "".join(chr(0x4E00 + n) for n in range(190)) + "[!c]" * (MAX_WILDCARDS - 1),
]


@pytest.mark.parametrize("one", HOSTILE)
def test_no_pattern_within_the_limits_costs_much(one: str) -> None:
    automata = [Automaton(parse(normalise(Resource("file", p)).path, False) or (), below=True) for p in HOSTILE]
    mine = Automaton(parse(normalise(Resource("file", one)).path, False) or (), below=True)
    assert len(mine.tokens) <= MAX_PATTERN_CHARACTERS + 2
    for other in automata:
        assert _calls(lambda other=other: meet(mine, other)) < 12_000
    for name in ("a/" * 500, "a" * MAX_PATH_CHARACTERS, "".join(chr(0x4E00 + n) for n in range(MAX_PATH_CHARACTERS))):
        assert _calls(lambda name=name: mine.along(name)) < 12_000


@pytest.mark.parametrize("kind", ["file", "spec"])
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("*" + "a" * MAX_PATTERN_CHARACTERS, "wildcards and more than"),
        ("?" * (MAX_WILDCARDS + 1), "wildcards"),
        (":(glob)src/*", "magic"),
        ("src/:(top)*", "magic"),
        (":!src", "magic"),
        (":/src", "magic"),
        ("src/*/../..", "leaves the repository"),
        ("\\\\host\\share", "is absolute"),
    ],
)
def test_what_is_refused(kind: str, path: str, why: str) -> None:
    with pytest.raises(ResourceError, match=why) as refused:
        normalise(Resource(kind, path))  # type: ignore[arg-type]
    assert refused.value.hint
    assert normalise(Resource("issue", path)).path == path


def test_too_many_patterns_are_refused() -> None:
    many = [Resource("file", f"{n}/*") for n in range(MAX_PATTERNS + 1)]
    with pytest.raises(ResourceError, match="patterns") as refused:
        normalise_all(many)
    assert refused.value.hint
    assert len(normalise_all(many[1:])) == MAX_PATTERNS
    assert len(normalise_all([Resource("issue", f"*{n}") for n in range(100)])) == 100


def test_wildcards_are_counted() -> None:
    assert [wildcards(p) for p in ("a", "a*", "**/*", "a***b?[c]", "*")] == [0, 1, 2, 3, 1]


ODD = [
    Resource("file", p)
    for p in ("", "/etc", "a//b", "../x", "a/./b", "\x00", "\ud800", "*" * 2_000, ":(glob)*", "[" * 40, "u\u0308")
]


def test_what_is_not_in_normal_form_raises_nothing_and_matches_itself_alone() -> None:
    for odd in ODD:
        index = Overlap()
        index.add("odd", (odd,))
        assert list(index.of([odd])) == ["odd"]
        for other in [*ODD, file("a/b"), file("./"), file("**"), file("ü")]:
            assert index.touches(other) == (other == odd)
            assert overlap(odd, other) == covers(odd, other) == all_covered([odd], [other]) == (other == odd)
        index.remove("odd", (odd,))
        assert not index.touches(odd)


def test_more_patterns_than_a_lease_may_have_are_names_only() -> None:
    many = tuple(Resource("file", f"{n}/*") for n in range(MAX_PATTERNS + 1))
    index = Overlap()
    index.add("hostile", (*many, file("plain")))
    assert not index.touches(file("1/a"))
    assert index.touches(file("plain/a"))
    assert list(index.of(many)) == ["hostile"]
    index.remove("hostile", (*many, file("plain")))
    assert not index.touches(file("./"))


# --- the index --------------------------------------------------------------------------------------------------------------

few = st.sampled_from(
    [
        "./",
        "a",
        "a/",
        "a/b",
        "a/b/",
        "a/b/c",
        "ab",
        "a0",
        "a.b",
        "b",
        "a/*",
        "*/b",
        "**",
        "**/b",
        "a/**",
        "a/b/*",
        "*",
        "[ab]/c",
        "a/[bc]/",
        "b*",
        "A",
        "A/b",
        "A/B*",
        "[AB]/c",
        "a\U0010ffff",
        "a\U0010ffff/b",
    ]
)
names = st.builds(lambda kind, path: normalise(Resource(kind, path)), st.sampled_from(("file", "spec", "issue")), few)
sets = st.lists(names, min_size=1, max_size=4, unique=True).map(tuple)


@settings(max_examples=400)
@given(st.lists(st.tuples(sets, st.booleans()), max_size=8), st.sets(st.integers(0, 7)), sets, st.booleans(), st.booleans())
def test_the_index_finds_what_comparing_all_with_all_finds(
    claims: list[tuple[tuple[Resource, ...], bool]],
    removed: set[int],
    wanted: tuple[Resource, ...],
    fold_case: bool,
    asked_before: bool,
) -> None:
    index = Overlap()
    for number, (held, folds) in enumerate(claims):
        if asked_before and number == len(claims) // 2:
            list(index.of(wanted, fold_case=True))
        index.add(f"c{number}", held, fold_case=folds)
    for number in sorted(removed):
        if number < len(claims):
            index.remove(f"c{number}", claims[number][0], fold_case=claims[number][1])
    for folding in (fold_case, not fold_case):
        expected = [
            f"c{number}"
            for number, (held, folds) in enumerate(claims)
            if number not in removed and any(overlap(a, b, fold_case=folds or folding) for a in held for b in wanted)
        ]
        assert list(index.of(wanted, fold_case=folding)) == expected, "in the order in which they became known"
    for number, (held, folds) in enumerate(claims):
        index.remove(f"c{number}", held, fold_case=folds)
    everything = [normalise(Resource(kind, "./")) for kind in ("file", "spec")]
    assert [*index.of(everything), *index.of(everything, fold_case=True)] == []
    assert not index._exact


@given(sets, sets, st.booleans())
def test_covered_by_one_of_them(inner: tuple[Resource, ...], outer: tuple[Resource, ...], fold_case: bool) -> None:
    expected = all(any(covers(o, i, fold_case=fold_case) for o in outer) for i in inner)
    assert all_covered(inner, outer, fold_case=fold_case) == expected


def test_thousands_of_names_elsewhere_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources_module, "meet", pytest.fail)
    index = Overlap()
    for number in range(10_000):
        index.add(f"c{number}", (file(f"held/{number % 50}/{number}.py"),))
    asked = file("held/7/new.py")
    work = _calls(lambda: list(index.of([asked])))
    assert work < 60
    assert list(index.of([file("held/7/57.py/x")])) == ["c57"]
    assert len(list(index.of([file("held/7/")]))) == 200


def test_a_slash_at_the_end_makes_no_other_name_of_a_path() -> None:
    assert name_of(file("src/a/")) == name_of(file("src/a"))
    assert name_of(file("src/*/")) != name_of(file("src/*"))
    assert name_of(file("./")) == file(".")
    assert name_of(Resource("issue", "x/")) == Resource("issue", "x/")
