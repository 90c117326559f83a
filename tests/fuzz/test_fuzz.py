"""What the fuzzers found stays found: the corpus is replayed, and a few dice are thrown anew in each run."""

from __future__ import annotations

import os
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import fuzz
from tests.fuzz.parsers import parsers

PARSERS = parsers()
THROWS = 150


def test_every_parser_has_a_corpus_and_the_other_way_round() -> None:
    assert sorted(path.name for path in fuzz.CORPUS.iterdir()) == sorted(PARSERS)
    assert sum(path.stat().st_size for path in fuzz.CORPUS.rglob("*")) < 400_000


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus(name: str) -> None:
    for data in fuzz.pool_of(name, PARSERS[name].seeds):
        PARSERS[name].run(data)


@pytest.mark.parametrize("name", PARSERS)
def test_a_few_throws(name: str) -> None:
    seed = 0 if os.environ.get("CI") else Random().randrange(1 << 32)
    dice, pool = Random(seed), fuzz.pool_of(name, PARSERS[name].seeds)
    for throw in range(THROWS):
        data = fuzz.mutated(dice, pool)
        try:
            PARSERS[name].run(data)
        except BaseException:
            sys.stderr.write(f"seed {seed}, throw {throw}: {data!r}\n")
            raise


@given(st.binary(max_size=300), st.sampled_from(sorted(set(PARSERS) - {"node"})))
def test_any_bytes(data: bytes, name: str) -> None:
    PARSERS[name].run(data)


def test_dice_keep_what_fails(tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pathlib import Path

    from tests.fuzz import parsers as module

    def fails(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("planted")

    monkeypatch.setattr(fuzz, "CORPUS", Path(str(tmp_path)))
    monkeypatch.setattr(module, "parsers", lambda: {"planted": module.Parser(fails, (b"seed",))})
    assert fuzz.throw_dice("planted", 500, 1) == 1
    (kept,) = (Path(str(tmp_path)) / "planted").iterdir()
    assert b"\xff" in kept.read_bytes()
    assert "planted: KeyError" in capsys.readouterr().err
