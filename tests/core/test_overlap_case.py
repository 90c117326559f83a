"""Names where case does not count, and which clone's rule goes."""

from __future__ import annotations

import random
import re
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.patterns import _LAST_CASED, _with_folded, fold
from sudocode_coordination.core.resources import all_covered, covers, matches, name_of, normalise, overlap
from sudocode_coordination.model import Resource


def file(path: str) -> Resource:
    return normalise(Resource("file", path))


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
