"""What a comparison of names can cost, whoever made the names up."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sudocode_coordination.core import resources as resources_module
from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.patterns import MAX_PATTERN_CHARACTERS, MAX_WILDCARDS, Automaton, meet, parse, wildcards
from sudocode_coordination.core.resources import (
    MAX_PATH_CHARACTERS,
    MAX_PATTERNS,
    all_covered,
    covers,
    normalise,
    normalise_all,
    overlap,
)
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource


def file(path: str) -> Resource:
    return normalise(Resource("file", path))


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


@pytest.mark.parametrize("fold_case", [False, True])
@pytest.mark.parametrize("one", HOSTILE)
def test_no_pattern_within_the_limits_costs_much(one: str, fold_case: bool) -> None:
    automata = [Automaton(parse(file(p).path, fold_case) or (), below=True) for p in HOSTILE]
    assert _calls(lambda: Automaton(parse(file(one).path, fold_case) or (), below=True)) < 40_000
    mine = Automaton(parse(file(one).path, fold_case) or (), below=True)
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


def test_a_pattern_walks_what_paths_have_in_common_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Overlap()
    for number in range(10_000):
        index.add(f"c{number}", (file(f"a/long/way/down/to/where/they/are/{number % 50}/{number}.py"),))
    steps = 0
    step = Automaton.step

    def counted(self: Automaton, states: int, token: object) -> int:
        nonlocal steps
        steps += 1
        return step(self, states, token)  # type: ignore[arg-type]

    monkeypatch.setattr(Automaton, "step", counted)
    assert len(list(index.of([file("**/*7.py")]))) == 1_000
    assert steps < 100_000, "half a million without"
    steps = 0
    assert list(index.of([file("*/longer/**")])) == []
    assert steps < 20, "what can't match is left out as a whole"


odd_text = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="ab/*?[]!^-\\.:~\u0308ü\U0010ffff", max_size=60),
    st.builds(
        lambda part, times: part * times,
        st.sampled_from(["a/", "*/", "**/", "[", "[!a]", "\\", "../", "é", "\ud800"]),
        st.integers(1, 600),
    ),
)
odd_names = st.lists(
    st.builds(Resource, st.sampled_from(("file", "spec", "issue", "component")), odd_text), min_size=1, max_size=MAX_PATTERNS
).map(tuple)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(odd_names, st.booleans()), min_size=1, max_size=6), odd_names, st.booleans())
def test_whatever_a_peer_sends_is_compared_at_a_bounded_cost_and_forgotten_without_a_trace(
    claims: list[tuple[tuple[Resource, ...], bool]], wanted: tuple[Resource, ...], fold_case: bool
) -> None:
    index = Overlap()
    list(index.of(wanted, fold_case=True))
    pairs = 0
    for number, (names, folds) in enumerate(claims):
        pairs += len(names) * len(wanted)
        index.add(f"c{number}", names, fold_case=folds)
    assert _calls(lambda: list(index.of(wanted, fold_case=fold_case))) < 20_000 * (1 + pairs)
    found = set(index.of(wanted, fold_case=fold_case))
    for number, (names, folds) in enumerate(claims):
        if set(names) & set(wanted):
            assert f"c{number}" in found, "equal names, of whatever kind"
        index.remove(f"c{number}", names, fold_case=folds)
    assert not index._exact
    for names_of in (index._written, index._folded, index._written_folded or {}):
        for kept in names_of.values():
            assert not any(getattr(kept, part) for part in kept.__slots__ if part[0] != "_")


def test_very_deep_and_very_long_names_cost_no_more_than_their_length() -> None:
    index = Overlap()
    deep = ["/".join(["d"] * depth) for depth in range(1, MAX_PATH_CHARACTERS // 2)]
    for number, name in enumerate(deep):
        index.add(f"c{number}", (file(name),))
    assert len(list(index.of([file(deep[-1])]))) == len(deep)
    assert _calls(lambda: list(index.of([file("e/" * 500 + "f")]))) < 5_000
    assert _calls(lambda: list(index.of([file("**/d/*")]))) < 60_000
