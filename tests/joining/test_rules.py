"""Lists of peers: what the default branch says counts, whatever is checked out, and it can only be made stricter."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.core.discovery_bench import HIGH, ME, OTHER, Bench, record
from tests.core.node_bench import ANN as ANN_KEY
from tests.core.node_bench import NodeBench
from tests.e2e.clones import connected, repository, wait_for
from tests.joining.branch import SOON, Maintainer, findings, peer_id, reaches

from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.api.requests import ListPeers
from sudocode_coordination.config import CONFIG_FILE, create_default_config, load_config
from sudocode_coordination.core.admission import MAX_REFUSALS, REFUSAL_MS, Admission, Rules, committed_rules, local_rules
from sudocode_coordination.core.io import Admit, BranchRead, Dial
from sudocode_coordination.core.peer_ids import peer_id_from_key
from sudocode_coordination.errors import ConfigError
from sudocode_coordination.model import Now

pytestmark = pytest.mark.usefixtures("warm_daemons")

ANN, BEN, CID = (Identity(bytes([n]) * 32).peer_id for n in (1, 2, 3))


def toml(**rules: object) -> bytes:
    return "".join(f"{key} = {value!r}\n" for key, value in rules.items()).encode()


# --- which rules are in force -------------------------------------------------------------------------------------------------


def test_without_rules_everyone_on_the_branch_may_join() -> None:
    rules = committed_rules(None, Rules(), "c")
    assert rules == Rules(commit="c")
    assert rules.refuses(ANN) == ""


def test_lists_of_the_default_branch_count() -> None:
    rules = committed_rules(
        toml(allowed_peers=[ANN, BEN], denied_peers=[BEN], lease_ttl_ms=1, of_a_later_version=[1]), Rules(), "c"
    )
    assert rules.refuses(ANN) == ""
    assert "denied_peers" in rules.refuses(BEN)
    assert "allowed_peers" in rules.refuses(CID)


def test_flags_and_environment_only_narrow() -> None:
    local = local_rules(create_default_config(allowed_peers=[BEN, CID], denied_peers=[CID], signed_commits="sign"))
    rules = committed_rules(toml(allowed_peers=[ANN, BEN]), local, "c")
    assert (rules.allowed, rules.denied, rules.signed) == ((BEN,), (CID,), "sign")
    assert committed_rules(toml(signed_commits="require", allowed_signers="keys"), local, "c").signers == "keys"
    assert committed_rules(toml(signed_commits="off"), local, "c").signed == "sign"
    disjoint = committed_rules(toml(allowed_peers=[ANN]), local, "c")
    assert disjoint.allowed == ()
    assert all(disjoint.refuses(peer) for peer in (ANN, BEN, CID))


@pytest.mark.parametrize(
    "text",
    [
        b"allowed_peers = [",
        b"\xff",
        toml(allowed_peers="everyone"),
        toml(allowed_peers=["12D3KooWnot"]),
        toml(denied_peers=["12D3KooW" + "z" * 44]),
        toml(signed_commits="maybe"),
        toml(allowed_signers="../keys"),
        b"a = " + b"[" * 20_000,
    ],
)
def test_rules_that_cannot_be_understood_let_nobody_in(text: bytes) -> None:
    rules = committed_rules(text, Rules(), "c")
    assert rules.closed
    assert rules.refuses(ANN)
    assert CONFIG_FILE in rules.trouble


def test_what_is_checked_out_does_not_open_the_door(tmp_path: Path) -> None:
    (tmp_path / ".sudocode").mkdir()
    (tmp_path / CONFIG_FILE).write_bytes(toml(allowed_peers=[ANN], signed_commits="require", lease_ttl_ms=1_234))
    config = load_config(tmp_path, {}, {})
    assert (config.allowed_peers, config.signed_commits, config.lease_ttl_ms) == ((), "off", 1_234)
    assert load_config(tmp_path, {}, {"COORD_DENIED_PEERS": f"{BEN},{CID}"}).denied_peers == (BEN, CID)
    (tmp_path / CONFIG_FILE).write_bytes(toml(allowed_peers=["me"]))
    with pytest.raises(ConfigError, match="12D3KooW"):
        load_config(tmp_path, {}, {})


def test_every_peer_id_fits_the_pattern_of_the_lists() -> None:
    for key in (bytes(32), b"\xff" * 32):
        assert create_default_config(allowed_peers=[peer_id_from_key(key)]).allowed_peers


# --- who is refused -----------------------------------------------------------------------------------------------------------


def read_with(bench: Bench, rules: Rules, vouched: tuple[str, ...] | None = None) -> None:
    bench.machine.refresh_requested(bench.now())
    read = BranchRead(commit="c" * 40, records=dict(bench.branch or {}), rules=rules, vouched=vouched)
    bench.do(bench.machine.branch_read(read, bench.now()))


def test_who_is_denied_is_shut_out_connected_or_not() -> None:
    bench = Bench().settled()
    bench.branch = {**(bench.branch or {}), "agent-x.json": record(OTHER, "x"), "agent-y.json": record(HIGH, "y")}
    bench.wait(80_000)
    bench.do(bench.machine.connected_changed(frozenset({OTHER.peer_id, HIGH.peer_id}), bench.now()))
    read_with(bench, Rules(denied=(OTHER.peer_id,)))
    assert list(bench.machine.known) == [HIGH.peer_id]
    assert OTHER.peer_id not in bench.machine.on_branch, "nor is it counted"
    assert "denied_peers" in bench.machine.skipped["agent-x.json"]
    assert bench.machine.admission.barred == {OTHER.peer_id: "x"}
    read_with(bench, Rules())
    assert OTHER.peer_id in bench.machine.known
    read_with(bench, Rules(), (HIGH.peer_id,))
    assert list(bench.machine.known) == [HIGH.peer_id]
    assert "signature" in bench.machine.skipped["agent-x.json"]
    # Somebody who deletes the branch does not let it in again.
    bench.branch = {}
    read_with(bench, Rules(allowed=(OTHER.peer_id,)))
    assert not bench.machine.known, "neither who was not let in before, nor who is not on the list"


def test_refusals_are_few_and_forgotten() -> None:
    admission = Admission()
    for n in range(3 * MAX_REFUSALS):
        admission.knocked(f"stranger-{n}", "/ip4/192.0.2.1/tcp/1", Now(n, n))
    for _ in range(4):
        admission.knocked("again", "", Now(1_000, 1_000))
    told = admission.refusals({"stranger-299": None}, Now(2_000, 2_000))
    assert len(told) == MAX_REFUSALS - 1
    assert told["again"].times == 4
    assert admission.why("again") == "no valid record on the branch is its own"
    assert not admission.refusals({}, Now(0, 1_000 + REFUSAL_MS))


def test_the_next_step_is_told_for_every_reason() -> None:
    admission = Admission()
    steps = [admission.next_step(OTHER.peer_id)]
    for rules in (Rules(closed=True, trouble="t"), Rules(denied=(OTHER.peer_id,)), Rules(allowed=(ME.peer_id,))):
        admission.rules = rules
        steps.append(admission.next_step(OTHER.peer_id))
    admission.rules, admission.vouched, admission.barred = Rules(signed="require"), frozenset(), {OTHER.peer_id: "x"}
    steps.append(admission.next_step(OTHER.peer_id))
    assert all(steps)
    assert len(set(steps)) == len(steps)


def test_one_look_lets_in_and_shuts_out() -> None:
    bench = NodeBench()
    bench.effects.clear()
    bench.reads(ann=ANN_KEY)
    assert [admit.peers for admit in bench.of(Admit)] == [(ANN_KEY.peer_id,)], "in the step that has read it"
    bench.connects(ANN_KEY)
    bench.effects.clear()
    del bench.branch["agent-ann.json"]
    bench.reads()
    assert [admit.peers for admit in bench.of(Admit)] == [()]
    bench.loses(ANN_KEY)  # what the network does with who is admitted no more
    bench.passes(120_000)
    assert not [dial for dial in bench.of(Dial) if dial.peer == ANN_KEY.peer_id], "nor is it dialled any more"
    assert [peer.agent_id for peer in bench.asks(ListPeers())] == ["me"]


# --- real daemons ---------------------------------------------------------------------------------------------------------------


def test_a_peer_that_the_default_branch_denies_is_shut_out_at_once_and_let_in_again() -> None:
    with repository("alice", "bob") as clones:
        alice, bob = clones
        for clone in clones:
            clone.start(*SOON)
        wait_for("they are connected", lambda: connected(*clones), 30)
        maintainer = Maintainer(alice.folder.parent)
        rule = maintainer.commit({CONFIG_FILE: f'denied_peers = ["{peer_id(bob)}"]\n'})
        wait_for("bob is out", lambda: reaches(alice), 30)
        told = wait_for("bob is refused", lambda: [f for f in findings(alice, "refused") if "bob" in f["message"]], 30)
        assert "denied_peers" in told[0]["message"]
        [admission] = findings(alice, "admission")
        assert "everyone on the branch but 1" in admission["message"]
        assert rule[:10] in admission["message"]
        problems = wait_for("bob knows", lambda: bob.json("status")["problems"], 30)
        assert "this clone may not join" in problems[0]
        assert peer_id(bob) in problems[0]
        assert alice.git("status", "--porcelain") == "", "nothing was fetched into the clone"
        assert rule not in alice.git("rev-list", "--all")
        maintainer.commit({CONFIG_FILE: f'allowed_peers = ["{peer_id(alice)}", "{peer_id(bob)}"]\n'})
        wait_for("bob is back", lambda: connected(*clones), 60)
        assert "2 listed peers" in findings(alice, "admission")[0]["message"]
