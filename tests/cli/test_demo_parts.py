"""The demo's stage and story, without its daemons."""

from __future__ import annotations

import os
import signal

import pytest

from sudocode_coordination.cli.demo import Story, demo
from sudocode_coordination.cli.screen import Screen
from sudocode_coordination.cli.session import Session
from sudocode_coordination.cli.stage import CONFIG, DemoError, Stage, ending_on_sigterm, wait_for
from sudocode_coordination.config import create_default_config

NAMES = ("alice", "bob", "carol")


def test_the_stage_is_built_and_taken_down() -> None:
    with Stage(NAMES) as stage:
        folder = stage.folder
        assert [actor.name for actor in stage.actors] == list(NAMES)
        for actor in stage.actors:
            assert (actor.folder / "src" / "auth.py").is_file()
            assert actor.wait_ended(0.1), "nothing was started"
        assert stage.git("-C", str(stage.actors[2].folder), "remote", "get-url", "origin").strip() == str(stage.remote)
        with pytest.raises(DemoError, match="git no-such-command"):
            stage.git("no-such-command")
    assert not folder.exists()


def test_a_stage_that_can_not_be_built_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    stage = Stage(NAMES)
    with pytest.raises(DemoError), stage:
        pytest.fail("there is no git")
    assert not stage.folder.exists()


def test_a_step_that_does_not_hold_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(story: Story) -> None:
        del story
        raise DemoError("bob was not denied", hint="look")

    monkeypatch.setattr(Story, "play", fails)
    assert demo(Session(Screen(as_json=False), None), None) == 1  # type: ignore[arg-type]
    assert capsys.readouterr().err == "error: bob was not denied\nhint: look\n"


def test_waiting_has_a_limit() -> None:
    assert wait_for("it", lambda: 7, 1.0) == 7
    with pytest.raises(DemoError, match="not within 0 s: it"):
        wait_for("it", lambda: False, 0.0)


def test_sigterm_leaves_by_way_of_what_cleans_up() -> None:
    with pytest.raises(SystemExit) as left, ending_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_demo_listens_on_this_machine_only() -> None:
    config = create_default_config("a", **CONFIG)
    assert config.listen_addresses == ("/ip4/127.0.0.1/tcp/0",)
