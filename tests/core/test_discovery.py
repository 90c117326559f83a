"""Discovery: when the branch is looked at, and who counts for a peer."""

from __future__ import annotations

from tests.core.discovery_bench import ADDRESS, HIGH, INTERVAL, ME, OTHER, TTL, WALL, Bench, kinds, record

from sudocode_coordination.core.admission import Admission
from sudocode_coordination.core.discovery import KNOCK_BURST, PUBLISH_GAP_MS, RETRY_MS, BranchHealth
from sudocode_coordination.core.facts import Notify, RosterChanged
from sudocode_coordination.core.io import (
    BranchRead,
    BranchReadFailed,
    DiskContents,
    Publish,
    ReadBranch,
)
from sudocode_coordination.core.peer_view import CLOCK_SKEW_MS, MAX_RECORDS, BranchView
from sudocode_coordination.core.wire import RecordOffer
from sudocode_coordination.model import Now
from sudocode_coordination.sim.identity import SimKeyring

# --- reading ----------------------------------------------------------------------------------------------------------------


def test_reads_at_once_and_then_every_interval_with_jitter() -> None:
    bench = Bench().settled()
    bench.outputs.clear()
    gaps: list[int] = []
    last: int | None = None
    for _ in range(20):
        due = bench.machine.deadline()
        assert due is not None
        step = bench.wait(due - bench.instant)
        if last is not None and not kinds(step, Publish):  # a push is followed by a look of its own
            gaps.append(bench.instant - last)
        assert kinds(step, ReadBranch)
        last = bench.instant
    assert all(0.8 * INTERVAL <= gap <= INTERVAL for gap in gaps), "no newcomer waits for longer than an interval"
    assert len(set(gaps)) > 3


def test_first_output_is_a_read() -> None:
    bench = Bench()
    assert bench.machine.started(bench.now(), DiskContents()) == [ReadBranch()]
    assert not bench.machine.first_read_done
    assert bench.machine.health.state == "unknown"
    assert bench.machine.roster == (ME.peer_id,)
    assert bench.machine.roster_read_at is None


def test_one_read_at_a_time() -> None:
    bench = Bench()
    bench.start()
    for _ in range(5):
        assert not kinds(bench.machine.refresh_requested(bench.now()), ReadBranch)
    bench.read({})
    assert len(kinds(bench.wait(1_500, auto=False), ReadBranch)) == 1


def test_a_failed_read_is_tried_again_soon_and_then_less_often() -> None:
    bench = Bench()
    bench.start()
    gaps = []
    for _ in range(8):
        bench.do(bench.machine.branch_read_failed(BranchReadFailed(reason="no route"), bench.now()))
        due = bench.machine.deadline()
        assert due is not None
        gaps.append(due - bench.instant)
        assert kinds(bench.wait(gaps[-1], auto=False), ReadBranch)
    assert all(gap >= RETRY_MS for gap in gaps)
    assert gaps[0] < 3_000
    assert gaps[-1] <= 72_000
    assert gaps[-1] > 30_000
    assert bench.machine.health == BranchHealth(state="unreachable", since_ms=WALL, reason="no route")
    assert bench.machine.first_read_done
    assert not kinds(bench.outputs, Publish)
    bench.read({})
    assert bench.machine.health.state == "ok"
    assert bench.of(Publish)


def test_a_knock_of_a_stranger_makes_it_look_soon() -> None:
    bench = Bench().settled()
    bench.wait(5_000)
    assert kinds(bench.do(bench.machine.knocked(OTHER.peer_id, ADDRESS[0], bench.now())), ReadBranch)
    bench.read({**(bench.branch or {}), "agent-x.json": record(OTHER, "x")})
    assert OTHER.peer_id in bench.machine.known
    bench.wait(5_000)
    assert not bench.machine.knocked(OTHER.peer_id, ADDRESS[0], bench.now()), "known by now"


def test_a_port_scan_is_no_flood_of_fetches() -> None:
    bench = Bench().settled()
    bench.outputs.clear()
    for n in range(600):
        for output in bench.do(bench.machine.knocked(SimKeyring(f"stranger-{n}").peer_id, "", bench.now())):
            if isinstance(output, ReadBranch):
                bench.read()
        bench.wait(100)
    assert len(bench.of(ReadBranch)) <= KNOCK_BURST + 60_000 // 6_000 + 2


def test_a_lost_peer_makes_it_look_soon() -> None:
    bench = Bench().settled()
    bench.machine.connected_changed(frozenset({HIGH.peer_id}), bench.now())
    bench.wait(1_000)
    bench.machine.connected_changed(frozenset(), bench.now())
    assert kinds(bench.wait(4_000), ReadBranch)


# --- who counts -------------------------------------------------------------------------------------------------------------


def test_a_new_peer_is_known_and_told_once() -> None:
    bench = Bench()
    bench.start()
    outputs = bench.read({"agent-x.json": record(OTHER, "x"), "agent-y.json": record(OTHER, "y")})
    assert RosterChanged() in outputs
    told = kinds(outputs, Notify)
    assert [(n.type, n.agent_id) for n in told] == [("peer-discovered", "x"), ("peer-discovered", "y")]
    assert told[0].data == {"peerId": OTHER.peer_id, "addresses": ["/ip4/192.0.2.9/tcp/1"], "capabilities": ["code"]}
    known = bench.machine.known[OTHER.peer_id]
    assert known.addresses == ("/ip4/192.0.2.9/tcp/1",)
    assert sorted(known.agents) == ["x", "y"]
    assert known.fresh
    assert bench.machine.roster == tuple(sorted((ME.peer_id, OTHER.peer_id)))
    bench.machine.refresh_requested(bench.now())
    assert not kinds(bench.wait(3_000), Notify)


def test_a_renewal_is_no_news_an_address_is() -> None:
    bench = Bench().settled()
    for wall, address, news in ((1, "/ip4/192.0.2.9/tcp/1", True), (2, "/ip4/192.0.2.9/tcp/1", False), (3, "/dns/h/tcp/1", True)):
        bench.machine.refresh_requested(bench.now())
        outputs = bench.read({**(bench.branch or {}), "agent-x.json": record(OTHER, "x", wall_ms=WALL + wall, address=address)})
        assert (RosterChanged() in outputs) == news
        bench.wait(3_000)
    assert bench.machine.known[OTHER.peer_id].addresses == ("/dns/h/tcp/1",)


def test_stale_after_its_ttl_unchanged_on_our_clock_and_fresh_again_when_renewed() -> None:
    bench = Bench().settled()
    assert bench.branch is not None
    bench.branch["agent-x.json"] = record(OTHER, "x", wall_ms=WALL - TTL + 1_000)
    bench.wait(80_000)
    first_seen = bench.instant
    assert bench.machine.known[OTHER.peer_id].fresh, "old by the wall clock, but within its ttl"
    bench.wait(TTL - 81_000)
    assert bench.machine.known[OTHER.peer_id].fresh
    bench.wait(first_seen + TTL + 80_000 - bench.instant)
    assert not bench.machine.known[OTHER.peer_id].fresh
    assert bench.machine.roster == (ME.peer_id,)
    bench.branch["agent-x.json"] = record(OTHER, "x", wall_ms=WALL + TTL)
    bench.wait(80_000)
    assert bench.machine.known[OTHER.peer_id].fresh


def test_at_first_sight_the_wall_clock_tells_with_allowance() -> None:
    late = WALL - TTL - CLOCK_SKEW_MS
    bench = Bench()
    bench.start()
    bench.read({"agent-x.json": record(OTHER, "x", wall_ms=late - 1_000), "agent-y.json": record(HIGH, "y", wall_ms=late + 1_000)})
    assert not bench.machine.known[OTHER.peer_id].fresh
    assert bench.machine.known[HIGH.peer_id].fresh
    assert [n.agent_id for n in bench.of(Notify)] == ["y"]


def test_a_clock_in_the_far_future_counts_as_now() -> None:
    bench = Bench()
    bench.start()
    bench.read({"agent-x.json": record(OTHER, "x", wall_ms=WALL + 10**11)})
    assert bench.machine.known[OTHER.peer_id].fresh
    bench.wait(TTL + 200_000)
    assert not bench.machine.known[OTHER.peer_id].fresh


def test_nobody_ages_while_the_remote_cannot_be_read_or_the_machine_sleeps() -> None:
    bench = Bench()
    bench.start()
    bench.read({"agent-x.json": record(OTHER, "x")})
    bench.instant += 10 * TTL
    outputs = bench.do(bench.machine.ticked(bench.now(), 10 * TTL))
    assert ReadBranch() in outputs
    assert bench.machine.known[OTHER.peer_id].fresh
    bench.do(bench.machine.branch_read_failed(BranchReadFailed(reason="down"), bench.now()))
    assert bench.machine.known[OTHER.peer_id].fresh


def test_connected_peers_count_whatever_the_branch_says() -> None:
    bench = Bench()
    bench.start()
    bench.read({"agent-x.json": record(OTHER, "x", wall_ms=WALL - 10 * TTL)})
    assert bench.machine.roster == (ME.peer_id,)
    outputs = bench.do(bench.machine.connected_changed(frozenset({OTHER.peer_id}), bench.now()))
    assert RosterChanged() in outputs
    assert OTHER.peer_id in bench.machine.roster


def test_a_deleted_branch_does_not_tear_the_swarm_but_a_peer_that_left_is_gone() -> None:
    bench = Bench().settled()
    bench.branch = {**(bench.branch or {}), "agent-x.json": record(OTHER, "x"), "agent-y.json": record(HIGH, "y")}
    bench.wait(80_000)
    bench.do(bench.machine.connected_changed(frozenset({OTHER.peer_id}), bench.now()))
    bench.branch = None
    bench.wait(80_000)
    assert list(bench.machine.known) == [OTHER.peer_id]
    bench.do(bench.machine.connected_changed(frozenset(), bench.now()))
    assert not bench.machine.known


def _in_a_swarm(*peers: SimKeyring) -> Bench:
    """Settled, with these on the branch and connected."""
    bench = Bench().settled()
    bench.branch = {**(bench.branch or {}), **{f"agent-{n}.json": record(peer, str(n)) for n, peer in enumerate(peers)}}
    bench.wait(80_000)
    bench.do(bench.machine.connected_changed(frozenset(peer.peer_id for peer in peers), bench.now()))
    return bench


def test_a_record_that_is_removed_shuts_its_connected_peer_out() -> None:
    bench = _in_a_swarm(OTHER, HIGH)
    assert bench.branch is not None
    del bench.branch["agent-0.json"]
    assert RosterChanged() in bench.wait(80_000)
    assert list(bench.machine.known) == [HIGH.peer_id]
    assert OTHER.peer_id not in bench.machine.roster


def test_who_has_another_record_is_not_shut_out() -> None:
    bench = _in_a_swarm(OTHER, OTHER)
    assert bench.branch is not None
    del bench.branch["agent-0.json"]
    bench.wait(80_000)
    assert list(bench.machine.known[OTHER.peer_id].agents) == ["1"]


def test_after_a_reset_of_the_branch_peers_have_some_minutes_to_be_there_again() -> None:
    bench = _in_a_swarm(OTHER, HIGH)
    bench.branch = {}
    bench.wait(2 * INTERVAL)
    assert sorted(bench.branch) == ["agent-me.json"], "it has put back its own record, and no other"
    assert len(bench.machine.known) == 2
    bench.branch["agent-0.json"] = record(OTHER, "0", wall_ms=WALL + 1)
    bench.wait(4 * INTERVAL + 60_000)
    assert list(bench.machine.known) == [OTHER.peer_id]
    del bench.branch["agent-0.json"]
    bench.wait(80_000)
    assert not bench.machine.known, "a removal after that is one"


def test_nobody_is_put_back_by_others() -> None:
    bench = _in_a_swarm(OTHER)
    assert bench.machine.roster[0] == ME.peer_id, "it publishes for both"
    assert bench.branch is not None
    for name, agent in (("agent-0.json", "0"), ("agent-more.json", "more")):
        offer = RecordOffer(records=(record(OTHER, agent, wall_ms=WALL + 500_000, address="/dns/moved/tcp/1"),))
        bench.do(bench.machine.offered(OTHER.peer_id, offer, bench.now()))
        push = next(o for o in bench.wait(PUBLISH_GAP_MS + 1_000, auto=False) if isinstance(o, Publish))
        assert push.beside == {name: bench.machine._view.names_of(OTHER.peer_id)}
        bench.landed(push)
        bench.wait(10_000)
    bench.branch = {"agent-me.json": bench.branch["agent-me.json"]}
    bench.wait(80_000)
    offer = RecordOffer(records=(record(OTHER, "0", wall_ms=WALL + 900_000),))
    bench.do(bench.machine.offered(OTHER.peer_id, offer, bench.now()))
    bench.wait(TTL)
    assert sorted(bench.branch) == ["agent-me.json"]


def test_an_older_record_put_back_is_no_sign_of_life() -> None:
    bench = Bench().settled()
    bench.branch = {**(bench.branch or {}), "agent-x.json": record(OTHER, "x", wall_ms=WALL + 5, address="/dns/new/tcp/1")}
    bench.wait(80_000)
    for n in range(30):
        bench.branch["agent-x.json"] = record(OTHER, "x", wall_ms=WALL - n, address="/dns/old/tcp/1")
        bench.wait(60_000)
    assert not bench.machine.known[OTHER.peer_id].fresh
    assert bench.machine.known[OTHER.peer_id].addresses == ("/dns/new/tcp/1",)


def test_what_is_no_record_is_told_and_hurts_nothing() -> None:
    bench = Bench()
    bench.start()
    read = BranchRead(
        commit="c" * 40,
        records={"agent-bad.json": b"{", "agent-x.json": record(OTHER, "x"), "agent-z.json": record(OTHER, "x")},
        skipped={"README": "the file name is not agent-<id>.json"},
    )
    bench.do(bench.machine.branch_read(read, bench.now()))
    assert sorted(bench.machine.skipped) == ["README", "agent-bad.json", "agent-z.json"]
    assert "not JSON" in bench.machine.skipped["agent-bad.json"]
    assert list(bench.machine.known) == [OTHER.peer_id]


def test_too_many_records_are_told() -> None:
    view = BranchView(ME, Admission())
    records = {f"agent-{n:05}.json": b"x" for n in range(MAX_RECORDS + 5)}
    view.take(BranchRead(commit="c", records=records), frozenset(), Now(0, WALL), 0)
    assert not view.known(frozenset())
    assert len(view.skipped) <= 501
