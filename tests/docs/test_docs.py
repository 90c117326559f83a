"""Every command block of the documents does what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.bridge.nodejs import need_node
from tests.docs.blocks import EXECUTED, ROOT, SHOWN, Block, blocks_of, documents, fits, steps_of
from tests.docs.scenario import LOOKING, Scenario
from tests.warm.starting import Warm, running

MAX_NOT_RUN = 8
"""Blocks in all documents that may be marked `<!-- not run: why -->`: installing software, other machines, this very test."""

ALL_BLOCKS = [block for document in documents() for block in blocks_of(document)]
RUN = [block for block in ALL_BLOCKS if block.language in EXECUTED and block.not_run is None]


COLD = frozenset((ROOT / "README.md",))
"""Documents whose daemons are started from nothing, as a reader's are."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", sorted({block.document for block in RUN}), ids=lambda path: str(path.relative_to(ROOT)))
def test_document(document: Path, short_tmp: Path, request: pytest.FixtureRequest) -> None:
    if "ssh-keygen -q" in document.read_text("utf-8") and shutil.which("ssh-keygen") is None:
        pytest.skip("it signs with ssh-keygen (openssh-client)")
    blocks = [block for block in RUN if block.document == document]
    if any(block.language == "js" for block in blocks):
        need_node()
    starts = document not in COLD and any("coord start" in block.text for block in blocks)
    scenario = Scenario(short_tmp, request.getfixturevalue("warm") if starts else None)
    try:
        for block in blocks:
            scenario.run(block)
    finally:
        scenario.close()


def test_every_block_says_what_it_is() -> None:
    unknown = [f"{block}: {block.language!r}" for block in ALL_BLOCKS if block.language not in EXECUTED | SHOWN]
    assert unknown == []


def test_no_command_hides_in_a_block_that_is_only_shown() -> None:
    hidden = [str(b) for b in ALL_BLOCKS if b.language in SHOWN and any(line.startswith("$ ") for line in b.text.splitlines())]
    assert hidden == []


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    not_run = [block for block in ALL_BLOCKS if block.not_run is not None]
    assert all(block.not_run for block in not_run)
    assert len(not_run) <= MAX_NOT_RUN, [str(block) for block in not_run]


# --- the harness itself -------------------------------------------------------------------------------------------------


def _block(text: str, language: str = "console") -> Block:
    return Block(ROOT / "README.md", 1, language, text, None)


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "x\n```sh\ntrue\n```\n<!-- not run: far away -->\n```console\n$ a\n```\n\n   ```text\n   b\n   ```\n", "utf-8"
    )
    found = blocks_of(document)
    assert [(b.language, b.text, b.not_run, b.line) for b in found] == [
        ("sh", "true\n", None, 2),
        ("console", "$ a\n", "far away", 6),
        ("text", "b\n", None, 10),
    ]


def test_steps_have_commands_over_several_lines_and_output() -> None:
    steps = steps_of(_block("$ cat <<X\n> hello\n> X\nhello\n$ true\n"))
    assert [(s.command, s.expected) for s in steps] == [("cat <<X\nhello\nX", "hello"), ("true", "")]


@pytest.mark.parametrize(
    ("expected", "output", "verdict"),
    [
        ("held by alice", "held  by alice\n", True),
        ("held by alice", "held by bob", False),
        ("held by ...", "held by bob\nfor 5 m", True),
        ("...\nbob ... direct\n...", "agent conn\nbob   x  direct\nmore", True),
        ("...\nbob ... direct\n...", "agent conn\nbob   x  direct", True),
        ("a.c", "abc", False),
        ("green", "\x1b[32mgreen\x1b[0m", True),
        ("end", "end of it", False),
        ("for 15m, token 1", "for 15m, token 1 after 1s\n", True),
        ("for 15m after ...", "for 15m after 2m3s", True),
        ("for 15m, token 1", "for 15m, token 1 after all", False),
    ],
)
def test_output_fits(expected: str, output: str, verdict: bool) -> None:
    assert fits(expected, output) is verdict


@pytest.mark.parametrize(
    ("command", "looking"),
    [
        ("coord peers", True),
        ("coord check src/auth.py; echo $?", True),
        ("cd ../bob && coord leases --all", True),
        ("git fetch -q && git show origin/coordination:x", True),
        ("coord work show", True),
        ("cat ../waited", True),
        ("cat > made << END\nx\nEND", False),
        ("coord lease src/auth.py", False),
        ("coord work set --file x", False),
        ("coord status; coord stop", False),
        ("coord peers && coord release --all", False),
    ],
)
def test_only_commands_that_look_are_repeated(command: str, looking: bool) -> None:
    assert (LOOKING.fullmatch(command) is not None) is looking


def test_a_scenario_carries_directory_variables_and_files(short_tmp: Path) -> None:
    scenario = Scenario(short_tmp)
    scenario.run(_block("$ cd alice && export WHO='al ice'\n"))
    scenario.run(_block('$ pwd; echo "$WHO"\n.../alice\nal ice\n$ git log --format=%s; uv run echo hi\nfirst\nhi\n'))
    scenario.run(_block("pip install uv\necho x > new\ncd ..\n", "sh"))
    scenario.run(_block("import pathlib\nassert pathlib.Path('alice/new').exists()\n", "python"))
    scenario.run(_block("lease_ttl_ms = 1000\n", "toml"))
    with pytest.raises(AssertionError, match="exit code 3"):
        scenario.run(_block("$ exit 3\n"))
    with pytest.raises(AssertionError, match="it said"):
        scenario.run(_block("$ echo no\nyes\n"))
    scenario.close()


def test_a_warm_start_is_the_real_command_and_nothing_is_left_of_it(short_tmp: Path, warm: Warm) -> None:
    scenario = Scenario(short_tmp, warm)
    scenario.run(_block("$ cd alice && coord start --agent-id alice\nactive: agent alice, ...\n"))
    (daemon,) = running(short_tmp / "own" / "pids")
    scenario.run(_block("$ cat .git/sudocode-coordination/daemon.lock\n" + str(daemon.pid)))
    assert daemon.cwd() == "/"
    scenario.run(_block("$ coord start; echo $?\nerror: a daemon runs in this clone already ...\n...\n1\n"))
    scenario.close()
    assert not daemon.is_running()
    scenario = Scenario(short_tmp / "other", warm)
    scenario.run(_block("$ coord stop; coord start --set x=1; echo $?\n...\n2\n"))
    scenario.close()
