"""`coord replay`: the forecast against a history's own merges."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from tests.conformance.worktree_bench import Repository, git

from sudocode_coordination.replay.__main__ import main
from sudocode_coordination.replay.generator import history
from sudocode_coordination.replay.history import Replayed, figures


def test_the_same_seed_makes_the_same_history() -> None:
    assert list(history(7, 5)) == list(history(7, 5))
    assert list(islice(history(7, 5), 3)) != list(islice(history(8, 5), 3))


def test_recall_and_precision_are_counted_by_file() -> None:
    merges = [
        Replayed(ours="a", theirs="b", found=("x", "y"), foretold=("y", "z"), uncertain=("z",), took_ms=3.0),
        Replayed(ours="a", theirs="c", took_ms=1.0),
        Replayed(ours="a", theirs="d", trouble="no", took_ms=2.0),
    ]
    told = figures(merges)
    assert (told.merges, told.in_conflict, told.files_in_conflict, told.foretold, told.right) == (3, 1, 2, 2, 1)
    assert (told.recall, told.precision, told.uncertain, told.uncertain_right, told.troubles) == (0.5, 0.5, 1, 0, 1)
    assert told.median_ms == 2.0
    assert figures([]).recall is None


def test_a_generated_history_is_foretold(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--generate", "11", "--limit", "4", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["figures"]
    assert told["merges"] == 4
    assert told["recall"] in (None, 1.0)
    assert told["precision"] in (None, 1.0)


def test_it_is_a_program_of_its_own() -> None:
    command = [sys.executable, "-m", "sudocode_coordination.replay", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: coord replay")


@pytest.mark.slow
def test_many_generated_merges_are_foretold(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--generate", "2", "--limit", "60", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["figures"]
    assert told["filesInConflict"] > 5
    assert (told["recall"], told["precision"]) == (1.0, 1.0)


@pytest.mark.slow
def test_branches_that_were_never_merged_can_be_tried(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tmp_path)
    for name in ("main", "one", "two"):
        if name != "main":
            git(repository.ann, "checkout", "-q", "-b", name, "main")
        (repository.ann / "f").write_text(f"{name}\n")
        repository.commit()
    assert main([str(repository.ann), "--branches"]) == 0
    said = capfd.readouterr().out
    assert "3 merges, 1 of them in conflict" in said
    assert "recall 100.0 %, precision 100.0 %" in said


def test_what_is_no_repository_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "is in no git repository" in capfd.readouterr().err


def test_what_can_not_be_replayed_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    assert main([str(tmp_path / "gone")]) == 1, "no repository above it is taken"
    assert "gone is not there\nhint: " in capfd.readouterr().err
    for arguments in ([str(tmp_path / "gone")], [str(tmp_path), "--rev", "bogus"]):
        assert main([*arguments, "--json"]) == 1
        error = json.loads(capfd.readouterr().out)["error"]
        assert all(error[key] for key in ("code", "message", "hint"))
    assert main([str(tmp_path)]) == 0
    assert "--branches" in capfd.readouterr().out
