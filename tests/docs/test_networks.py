"""The figures of docs/networks.md are those of the code."""

from __future__ import annotations

from tests.docs.blocks import ROOT

from sudocode_coordination.adapters.libp2p_relay import _IDLE_SECONDS, RelayLimits
from sudocode_coordination.core.membership import RELAY_PATIENCE_MS
from sudocode_coordination.core.nearby import REMEMBERED_MS


def test_the_limits_of_a_relay() -> None:
    text = (ROOT / "docs" / "networks.md").read_text("utf-8")
    limits = RelayLimits()
    for row in (
        f"| peers that are reachable through it | {limits.reservations} |",
        f"| circuits at once | {limits.circuits} |",
        f"| circuits at once of one peer | {limits.circuits_per_peer} |",
        f"| length of a circuit | {limits.circuit_seconds / 3600:g} hours |",
        f"| bytes on a circuit | {limits.circuit_bytes >> 30} GiB |",
        f"| silence on a circuit | {_IDLE_SECONDS:g} s |",
    ):
        assert row in text
    assert RELAY_PATIENCE_MS == 2_000, "within two seconds"
    assert REMEMBERED_MS == 7 * 24 * 3_600_000, "within the last week"
