"""Clones of one machine meet without the git remote."""

from __future__ import annotations

from tests.e2e.clones import Clone, connected, repository, wait_for


def meet(*clones: Clone) -> None:
    wait_for("they meet", lambda: connected(*clones) or None)


def test_two_that_knew_each_other_meet_with_the_remote_away() -> None:
    with repository("ann", "bob") as (ann, bob), repository("eve") as [eve]:
        for clone in (ann, bob, eve):
            clone.start()
        meet(ann, bob)
        remote = ann.folder.parent / "remote.git"
        ann.kill()  # without a word: its record stays on the branch, with an address that is nobody's
        bob.coord("stop")
        remote.rename(remote.with_name("away.git"))
        bob.start()
        ann.start()
        meet(ann, bob)
        status = bob.json("status")
        assert status["remote"]["state"] == "unreachable"
        assert ann.peers()["bob"] == "direct"
        for clone in (ann, bob):
            assert "eve" not in clone.peers(), "of another repository, though it shows itself on this machine"
