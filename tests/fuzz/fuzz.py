"""Fuzzes one parser: `python -m tests.fuzz.fuzz PARSER COUNT [--dice SEED] [--corpus FOLDER]`.

With atheris (the dependency group `fuzz`) inputs are led by the branches that they reach; with `--dice` they are mutations by a
seeded generator, for which nothing needs to be installed. What fails is kept as `crash-…` in the corpus, and told.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from random import Random
from typing import Final

CORPUS: Final = Path(__file__).with_name("corpus")
MAX_INPUT_BYTES: Final = 4_096
"""Longer ones say little more, and take their time."""


def mutated(dice: Random, pool: list[bytes]) -> bytes:
    """One of the pool with a few things done to it that parsers stumble over."""
    data = bytearray(dice.choice(pool))
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(9):
            case 0:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                data[at : at + dice.randrange(1, 9)] = b""
            case 2:
                data[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 3 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case 4:
                other = dice.choice(pool)
                start = dice.randrange(len(other) + 1)
                data[at:at] = other[start : start + dice.randrange(1, 64)]
            case 5:
                data[at:at] = data[at : at + dice.randrange(1, 64)] * dice.randrange(1, 5)
            case 6:
                data[at : at + 4] = dice.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\x80\x80\x80"))
            case 7:
                data[at : at + 1] = dice.choice(
                    (b"\0", b"\xff", b"\x80", b"\x7f", b"\xc0", b"\xdd", b'"', b"{", b"[", b"\\", b"-", b"/")
                )
            case _:
                del data[at:]
    return bytes(data[:MAX_INPUT_BYTES])


def pool_of(name: str, seeds: tuple[bytes, ...]) -> list[bytes]:
    """The seeds, and what the corpus has."""
    return [*seeds, *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]


def throw_dice(name: str, count: int, seed: int) -> int:
    """Run mutated inputs; how many failed. An input that fails in a new way is kept."""
    from tests.fuzz.parsers import parsers

    parser = parsers()[name]
    dice, pool = Random(seed), pool_of(name, parser.seeds)
    failed: set[str] = set()
    for _ in range(count):
        data = mutated(dice, pool)
        try:
            parser.run(data)
        except BaseException as error:  # pycrdt's panics are no Exceptions
            if isinstance(error, KeyboardInterrupt):
                raise
            what = f"{type(error).__name__} {str(error)[:80]}"
            if what not in failed:
                failed.add(what)
                keep(name, data, what)
    return len(failed)


def keep(name: str, data: bytes, what: str) -> None:
    """Write an input that failed into the corpus."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"crash-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    sys.stderr.write(f"{name}: {what}: {path}\n")


def lead(name: str, count: int, corpus: Path) -> None:
    """Let atheris choose the inputs; ends the process."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["sudocode_coordination"]):
        from tests.fuzz.parsers import parsers

    parser = parsers()[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in parser.seeds:
        (corpus / f"seed-{hashlib.sha256(seed).hexdigest()[:12]}").write_bytes(seed)
    options = [
        f"-runs={count}",
        f"-max_len={MAX_INPUT_BYTES}",
        "-len_control=0",
        f"-artifact_prefix={corpus.parent}/{name}-",
        "-rss_limit_mb=2048",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], parser.run)
    atheris.Fuzz()


def main() -> int:
    """The command."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parser")
    arguments.add_argument("count", type=int)
    arguments.add_argument("--dice", type=int, metavar="SEED")
    arguments.add_argument("--corpus", type=Path, help="where atheris keeps inputs that reach something new")
    args = arguments.parse_args()
    if args.dice is None:
        lead(args.parser, args.count, args.corpus or CORPUS / args.parser)
        return 0
    failed = throw_dice(args.parser, args.count, args.dice)
    sys.stdout.write(f"{args.parser}: {args.count} inputs, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
