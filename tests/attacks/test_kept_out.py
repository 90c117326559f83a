"""Who breaks a rule is disconnected and kept out, longer each time; `coord peers` says why, also when the peer is back."""

from __future__ import annotations

from tests.attacks.siege import Siege

from sudocode_coordination.api.requests import GetFindings
from sudocode_coordination.core.conduct import FIRST_BENCH_MS, FORGIVEN_MS, MAX_BENCH_MS, MAX_PEERS, Conduct
from sudocode_coordination.core.io import Admit, Dial, PeerMisbehaved
from sudocode_coordination.model import Now


def bench_ms(siege: Siege) -> int:
    """For how long mallory is kept out."""
    since = siege.instant
    while not siege.connects():
        siege.advance(100)
    return siege.instant - since


def test_longer_each_time_and_never_for_good() -> None:
    siege = Siege()
    times = []
    for _ in range(9):
        siege.sends(b"\xc1")
        assert siege.is_out()
        times.append(bench_ms(siege))
    assert times == [min(FIRST_BENCH_MS << n, MAX_BENCH_MS) for n in range(9)]


def test_ann_does_not_dial_who_is_kept_out() -> None:
    siege = Siege()
    siege.sends(b"\xc1")
    siege.ann.effects.clear()
    siege.advance(FIRST_BENCH_MS - 1)
    assert not [e for e in siege.ann.effects if isinstance(e, Dial) and e.peer == siege.mallory]
    siege.advance(1_000)
    assert [e for e in siege.ann.effects if isinstance(e, Admit)][-1].peers == siege.ann.admitted
    assert [e for e in siege.ann.effects if isinstance(e, Dial) and e.peer == siege.mallory]


def test_a_new_record_on_the_branch_does_not_let_mallory_in_sooner() -> None:
    siege = Siege()
    siege.sends(b"\xc1")
    siege.branch["agent-mallory.json"] = siege.record_of("mallory", multiaddrs=("/ip4/192.0.2.9/tcp/9",))
    siege.branch["agent-mallory2.json"] = siege.record_of("mallory", agent_id="mallory2")
    siege.ann.effects.clear()
    siege.looks()
    assert siege.is_out()
    assert not [e for e in siege.ann.effects if isinstance(e, Dial) and e.peer == siege.mallory]


def test_the_reason_is_kept_while_the_peer_is_back_and_for_an_hour() -> None:
    siege = Siege()
    siege.sends(b"\xc1")
    assert siege.reason.startswith("dropped at 2027-01-15T08:00:0")
    bench_ms(siege)
    back = next(peer for peer in siege.peers() if peer.peer_id == siege.mallory)
    assert back.connection == "direct"
    assert "malformed frame" in (back.reason or "")
    siege.advance(FORGIVEN_MS)
    assert "malformed frame" not in siege.reason


def test_what_the_network_part_sees_counts_the_same() -> None:
    siege = Siege()
    siege.gives(siege.ann, PeerMisbehaved(peer=siege.mallory, reason="opens too many streams"))
    assert siege.is_out()
    assert "opens too many streams" in siege.reason
    findings = siege.asks("ann", GetFindings())
    assert any("opens too many streams" in finding.message for finding in findings if finding.name == "peer")
    siege.is_unharmed()


def test_a_stream_that_ended_without_a_hello_is_told_and_nobody_is_kept_out_for_it() -> None:
    siege = Siege(connected=False)
    siege.gives(siege.ann, PeerMisbehaved(peer=siege.mallory, reason="said no hello", keep_out=False))
    assert "said no hello" in siege.reason
    assert siege.connects()


def test_what_is_remembered_of_peers_is_bounded() -> None:
    conduct = Conduct()
    for n in range(MAX_PEERS * 2):
        conduct.frame(f"peer-{n}", 1, n)
        conduct.broke(f"peer-{n}", "x" * 10_000, Now(n, n))
    assert len(conduct._records) == MAX_PEERS
    dropped = conduct.dropped(f"peer-{MAX_PEERS * 2 - 1}", MAX_PEERS * 2)
    assert dropped is not None
    assert len(dropped.reason) == 300
    assert conduct.kept_out(MAX_PEERS * 2 + MAX_BENCH_MS) == frozenset()
