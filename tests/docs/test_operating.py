"""The figures of docs/operating.md are those of the code."""

from __future__ import annotations

from tests.docs.blocks import ROOT

from sudocode_coordination.cli.doctor import IDENTITY_BYTES
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.agents import MAX_AGENTS
from sudocode_coordination.core.claims import MAX_CLAIMS, MAX_OWNER_CLAIMS
from sudocode_coordination.core.feed import MAX_TOTAL_BYTES
from sudocode_coordination.core.strict_table import MAX_ENTRIES
from sudocode_coordination.daemon.journal import MAX_FILE_BYTES
from sudocode_coordination.daemon.lifecycle import MAX_LOG_BYTES
from sudocode_coordination.daemon.server import MAX_CLIENTS


def test_sizes_and_limits() -> None:
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    for words in (
        f"the clone's key, and so its peer id | {IDENTITY_BYTES} bytes |",
        f"| {MAX_TOTAL_BYTES >> 20} MB that peers share",
        f"to find out what happened | {MAX_FILE_BYTES >> 20} MB each |",
        f"what it had to say | {MAX_LOG_BYTES >> 20} MB each |",
        f"| clones in a swarm | {CoordinationConfig(agent_id='a').max_peers} (`max_peers`)",
        f"| agents of a clone | {MAX_AGENTS} |",
        f"| {MAX_OWNER_CLAIMS:,} of a clone, {MAX_CLAIMS:,} of all others together |",
        f"| {MAX_ENTRIES:,} in the table;",
        f"| programs on the socket at once | {MAX_CLIENTS} |",
    ):
        assert words in text, words
