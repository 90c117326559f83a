"""Patterns over paths: git's `glob` pathspecs as small automata, and whether two of them have a path in common.

Source of the meaning: gitglossary(7) "pathspec", and git's `wildmatch.c` with WM_PATHNAME, which `parse` follows step by step.
One difference is meant: git compares bytes, this compares characters, so that `?` stands for `ü` too.

Where case does not count (`folded`), an automaton matches a folded path if and only if the pattern matches some path that
folds to it. So whatever meets with case meets without it, and `[!a]` then stands for `a` as well: it matches `A`.

`meet` walks the product of two automata, all states of one at a time as the bits of an integer. Both are linear: state n
leads to n + 1 by a character or for free, or back to itself, or for free over a `**/`. It takes one step for each token of
the shorter one, so its cost is bounded by what `MAX_PATTERN_CHARACTERS` and `MAX_WILDCARDS` allow.

A common path is one of non-empty names. It is not looked at whether one of them would have to be `.` or `..`: `?` and `.*`
are said to meet although only `.` is both. An automaton never demands an empty name (`parse` sees to that); where it
allows one, any other name will do as well, so the empty ones need no care in the product.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import Final, TypeAlias

MAX_PATTERN_CHARACTERS: Final = 256
"""Length of a name with wildcards. With the next one it bounds the cost of a comparison, whoever made up the pattern."""
MAX_WILDCARDS: Final = 16
"""`*`, `?`, `[…]` and `**` in one name."""

SPECIAL: Final = frozenset("*?[\\")
"""What makes a name a pattern, as in git."""
STEPS_KEPT: Final = 512
"""Characters for which an automaton remembers what they lead to."""
_LAST: Final = 0x10FFFF
_LAST_CASED: Final = 0x1F000
"""No letter with another case lies beyond it."""
_SLASH: Final = ord("/")


class _Kind(Enum):
    ANY = "?"
    """One character but a slash."""
    STAR = "*"
    """Any number of them."""
    DEEP = "**"
    """Any number of characters, slashes too."""
    SKIP = "**/"
    """Nothing; the two tokens after it (DEEP and a slash) may be left out."""


Spans: TypeAlias = tuple[tuple[int, int], ...]
"""A set of characters: ranges of code points, both ends included, in order, apart from each other."""
Token: TypeAlias = str | Spans | _Kind
"""A string is one character."""

_ASCII_CLASSES: Final[dict[str, Spans]] = {
    "alnum": ((48, 57), (65, 90), (97, 122)),
    "alpha": ((65, 90), (97, 122)),
    "blank": ((9, 9), (32, 32)),
    "cntrl": ((0, 31), (127, 127)),
    "digit": ((48, 57),),
    "graph": ((33, 126),),
    "lower": ((97, 122),),
    "print": ((32, 126),),
    "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "space": ((9, 10), (13, 13), (32, 32)),
    "upper": ((65, 90),),
    "xdigit": ((48, 57), (65, 70), (97, 102)),
}
"""As git has them: ASCII, whatever the locale."""


def _fold_one(char: str) -> str:
    for found in (char.casefold(), char.lower()):
        if len(found) == 1:
            return found
    return char


def fold(text: str) -> str:
    """Without regard to case: every letter by itself, by Unicode's simple folding.

    Git's `core.ignorecase` folds ASCII only, file systems of macOS and Windows more; this folds as much as any of those that go
    letter by letter, and so finds an overlap rather than none. Letters whose other case is several (`ß` and `SS`) are
    themselves alone: a wildcard for one character must match as much with folding as without.
    """
    return text.lower() if text.isascii() else "".join(map(_fold_one, text))


@lru_cache(1)
def _cased() -> list[tuple[int, int, int]]:
    """Runs of letters that fold to others, with how far away those are. A run may take every second letter: the ones between
    are what it folds to."""
    runs: list[tuple[int, int, int]] = []
    for code in range(_LAST_CASED):
        by = ord(_fold_one(chr(code))) - code
        if not by:
            continue
        if runs and runs[-1][2] == by and (code - runs[-1][1] == 1 or (code - runs[-1][1] == 2 and by == 1)):
            runs[-1] = (runs[-1][0], code, by)
        else:
            runs.append((code, code, by))
    return runs


@lru_cache(STEPS_KEPT)
def _with_folded(spans: Spans) -> Spans:
    """With what the characters fold to. What they are themselves may stay: no folded path has it."""
    more: list[tuple[int, int]] = []
    for low, high in spans:
        if low == high:
            more.append((code := ord(_fold_one(chr(low))), code))
        elif high < 128:
            more.append((max(low, 65) + 32, min(high, 90) + 32))
        else:
            for a, b, by in _cased():
                if a <= high and b >= low:
                    first, last = max(low, a), min(high, b)
                    second = by == 1  # every second letter: from one that folds to one that does
                    more.append((first + (second and (first - a) % 2) + by, last - (second and (last - a) % 2) + by))
    return _merged([*spans, *((a, b) for a, b in more if a <= b)])


def is_pattern(path: str) -> bool:
    """Whether git takes it for a pattern."""
    return not SPECIAL.isdisjoint(path)


def wildcards(path: str) -> int:
    """How many wildcards it has at most: every run of stars, `?` and opening bracket counts, escaped or not."""
    return sum(1 for i, c in enumerate(path) if c in "?[" or (c == "*" and path[i - 1 : i] != "*"))


def literal_folder(path: str) -> str:
    """The folder that all it matches lies in: its parts before the first with a wildcard; "" is the root."""
    parts = path.split("/")
    plain = next(i for i, part in enumerate(parts) if is_pattern(part))
    return "/".join(parts[:plain])


def _without(spans: Spans, low: int, high: int) -> Spans:
    cut = ((x, y) for a, b in spans for x, y in ((a, min(b, low - 1)), (max(a, high + 1), b)))
    return tuple((x, y) for x, y in cut if x <= y)


def _merged(spans: list[tuple[int, int]]) -> Spans:
    merged: list[tuple[int, int]] = []
    for a, b in sorted(spans):
        if merged and a <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    return tuple(merged)


def _joined(spans: list[tuple[int, int]], *, negated: bool, folded: bool) -> Spans:
    """In order, merged, without the slash; with what they fold to."""
    merged = found = _merged(spans)
    if negated:
        found = ((0, _LAST),)
        for a, b in merged:
            found = _without(found, a, b)
    found = _without(found, _SLASH, _SLASH)
    return _with_folded(found) if folded else found


def _bracket(text: str, at: int, folded: bool) -> tuple[Spans, int] | None:
    """The set that begins at the `[` there, and where it ends; None if it is malformed or empty: then nothing matches."""
    at += 1
    negated = text[at : at + 1] in ("!", "^")
    at += negated
    spans: list[tuple[int, int]] = []
    before = ""  # what a `-` would begin a range with
    first = True
    while first or text[at : at + 1] != "]":
        first = False
        if at >= len(text):
            return None
        char = text[at]
        ends = text.find("]", at + 2) if text.startswith("[:", at) else 0
        if ends < 0:
            return None
        if ends > at + 2 and text[ends - 1] == ":":
            named = _ASCII_CLASSES.get(text[at + 2 : ends - 1])
            if named is None:
                return None
            spans += named
            at, before = ends + 1, ""
            continue
        ranged = char == "-" and before != "" and text[at + 1 : at + 2] not in ("", "]")
        at += ranged
        at += text[at] == "\\"
        if at >= len(text):
            return None
        char = text[at]
        spans.append((ord(before if ranged else char), ord(char)))
        before = "" if ranged else char
        at += 1
    joined = _joined([(a, b) for a, b in spans if a <= b], negated=negated, folded=folded)
    return (joined, at + 1) if joined else None


def parse(text: str, folded: bool) -> list[Token] | None:
    """The automaton's tokens; None if no path matches. `folded`: what the paths fold to that the pattern matches."""
    tokens: list[Token] = []
    # git compares what comes before the first wildcard by itself, and begins to look for wildcards there: so the stars of
    # `a**` are at the beginning of a pattern, and match slashes too, those of `a*b**` are not. gitglossary(7) leaves that open.
    first = next((i for i, char in enumerate(text) if char in SPECIAL), 0)
    at = 0
    while at < len(text):
        char = text[at]
        if char == "*":
            end = at
            while text[end : end + 1] == "*":
                end += 1
            whole = end - at > 1 and (at == first or text[at - 1] == "/")
            if whole and text[end : end + 1] == "/":
                if tokens[-3:-1] != [_Kind.SKIP, _Kind.DEEP]:  # else it says the same again
                    tokens += [_Kind.SKIP, _Kind.DEEP, "/"]
                at = end + 1
                continue
            tokens.append(_Kind.DEEP if whole and (end == len(text) or text.startswith("\\/", end)) else _Kind.STAR)
            at = end
        elif char == "?":
            tokens.append(_Kind.ANY)
            at += 1
        elif char == "[":
            found = _bracket(text, at, folded)
            if found is None:
                return None
            tokens.append(found[0])
            at = found[1]
        else:
            at += char == "\\"
            if at >= len(text):
                return None
            tokens.append(_fold_one(text[at]) if folded else text[at])
            at += 1
    # A name that must be empty is none. `\/` is the only way to write one that is still here.
    forced = not tokens or tokens[0] == "/" or tokens[-1] == "/" or any(a == b == "/" for a, b in pairwise(tokens))
    return None if forced else tokens


class Automaton:
    """What a sequence of tokens matches; `below`: and everything below what it matches.

    State n is "before token n"; sets of states are integers, state n their bit n.
    """

    __slots__ = (
        "_any",
        "_chars",
        "_deep",
        "_edges",
        "_free",
        "_full",
        "_inside",
        "_known",
        "_named",
        "_past",
        "_skip",
        "_spans",
        "_star",
        "accepts",
        "tokens",
    )

    def __init__(self, tokens: Sequence[Token], *, below: bool) -> None:
        self.tokens: tuple[Token, ...] = (*tokens, "/", _Kind.DEEP) if below else tuple(tokens)
        self.accepts = 1 << len(self.tokens) | 1 << len(tokens)
        self._full = (2 << len(self.tokens)) - 1
        self._chars: dict[str, int] = {}
        self._spans: list[tuple[Spans, int]] = []
        self._any = self._star = self._deep = self._skip = 0
        for number, token in enumerate(self.tokens):
            bit = 1 << number
            if isinstance(token, str):
                self._chars[token] = self._chars.get(token, 0) | bit
            elif isinstance(token, tuple):
                self._spans.append((token, bit))
            elif token is _Kind.ANY:
                self._any |= bit
            elif token is _Kind.STAR:
                self._star |= bit
            elif token is _Kind.DEEP:
                self._deep |= bit
            else:
                self._skip |= bit
        self._edges, self._inside = self._sweep()
        self._known: dict[Token, tuple[int, int]] = {}
        self._free = self._star | self._deep | self._skip
        slashes = self._chars.get("/", 0)
        self._past = (self._full >> 1) & ~slashes
        self._named = self._past & ~self._free

    def _sweep(self) -> tuple[list[int], list[int]]:
        """Where the sets of characters begin or end, and which states' sets have the characters from there on."""
        changes: dict[int, int] = {}
        for spans, bit in self._spans:
            for low, high in spans:
                changes[low] = changes.get(low, 0) ^ bit
                changes[high + 1] = changes.get(high + 1, 0) ^ bit
        edges, inside, bits = [-1], [0], 0
        for edge in sorted(changes):
            bits ^= changes[edge]
            edges.append(edge)
            inside.append(bits)
        return edges, inside

    def begin(self) -> int:
        """The states at the start."""
        return self._closed(1)

    def _closed(self, states: int) -> int:
        """With what can be reached for free."""
        while True:
            more = states | (states & self._free) << 1 | (states & self._skip) << 3
            if more == states:
                return states
            states = more

    def _steps(self, token: Token) -> tuple[int, int]:
        """Which states some character that the token stands for leads on from, and which it leads back to themselves."""
        if isinstance(token, str):
            on = self._chars.get(token, 0)
            if token == "/":
                return on, self._deep
            inside = self._inside[bisect_right(self._edges, ord(token)) - 1]
            return on | inside | self._any, self._deep | self._star
        if isinstance(token, tuple):
            on = self._any
            for char, bits in self._chars.items():
                on |= bits if _has(token, ord(char)) else 0
            for spans, bit in self._spans:
                on |= bit if _share(token, spans) else 0
            return on, self._deep | self._star
        return self._named, self._deep | self._star

    def step(self, states: int, token: Token) -> int:
        """The states after one character that the token (no loop) stands for."""
        steps = self._known.get(token)
        if steps is None:
            if len(self._known) >= STEPS_KEPT:
                self._known.clear()
            steps = self._known[token] = self._steps(token)
        return self._closed((states & steps[0]) << 1 | states & steps[1])

    def in_one_name(self, states: int) -> int:
        """The states after any number of characters but slashes."""
        while True:
            # Adding carries through each run of states that can be passed, up to the first that can't.
            run = states & self._past
            more = self._closed(states | self._past ^ (self._past + run)) & self._full
            if more == states:
                return states
            states = more

    def anywhere(self, states: int) -> int:
        """The states after any number of any characters."""
        return self._full & -(states & -states)

    def along(self, path: str) -> int:
        """The states after all of a path, one by one; 0 if nothing that begins with it is matched."""
        states = self.begin()
        for char in path:
            states = self.step(states, char)
            if not states:
                break
        return states

    def ends_in_all(self, states: int) -> bool:
        """Whether whatever follows is matched."""
        return bool(self.tokens) and self.tokens[-1] is _Kind.DEEP and bool(states >> (len(self.tokens) - 1) & 1)


def _has(spans: Spans, code: int) -> bool:
    at = bisect_right(spans, (code, _LAST)) - 1
    return at >= 0 and code <= spans[at][1]


def _share(one: Spans, two: Spans) -> bool:
    i = j = 0
    while i < len(one) and j < len(two):
        if one[i][1] < two[j][0]:
            i += 1
        elif two[j][1] < one[i][0]:
            j += 1
        else:
            return True
    return False


def meet(one: Automaton, two: Automaton) -> bool:
    """Whether some path is matched by both."""
    if len(two.tokens) < len(one.tokens):
        one, two = two, one
    rows = [0] * (len(one.tokens) + 4)
    rows[0] = two.begin()
    for number, token in enumerate(one.tokens):
        states = rows[number]
        if not states:
            continue
        if token is _Kind.SKIP:
            rows[number + 1] |= states
            rows[number + 3] |= states
        elif token is _Kind.STAR:
            rows[number] = states = two.in_one_name(states)
            rows[number + 1] |= states
        elif token is _Kind.DEEP:
            rows[number] = states = two.anywhere(states)
            rows[number + 1] |= states
        else:
            rows[number + 1] |= two.step(states, token)
    return any(states & two.accepts for number, states in enumerate(rows) if one.accepts >> number & 1)
