"""The soak command, small: a mesh forms, a burst is seen by all, nothing is pushed at rest, churn leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

import pytest
from benchmarks.plot import Panel, Series, write_plot

ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_small_soak(tmp_path: Path) -> None:
    samples, plot = tmp_path / "soak.json", tmp_path / "soak.svg"
    command = [sys.executable, "-m", "benchmarks.soak", "--daemons", "5", "--minutes", "0.2", "--calm", "1", "--burst", "60"]
    command += ["--json", str(samples), "--plot", str(plot)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=115, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(samples.read_text())
    assert found["trouble"] == []
    assert 0 < found["burst_granted_s"] <= found["burst_seen_s"]
    assert found["churned"]["leases"] + found["churned"]["denied"] > 0
    assert found["churned"]["restarts"] + found["churned"]["kills"] > 0
    assert len(found["rests"]) == 2
    first, last = found["samples"][0], found["samples"][-1]
    assert first["phase"] == "mesh"
    assert set(last["rss"]) == {f"d{number:02}" for number in range(5)}
    assert all(count < 40 for count in last["threads"].values())
    assert ET.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.parametrize("highest", [0.0, 0.3, 7.0, 123.0])
def test_a_plot_of_anything(tmp_path: Path, highest: float) -> None:
    path = tmp_path / "plot.svg"
    series = [Series("a & b", [0.0, 1.0, 2.0], [0.0, highest / 2, highest]), Series("none", [], [])]
    write_plot(path, "a <title>", "minutes", [Panel("first", series, [(1.0, "mark")]), Panel("empty", [])])
    points = [line.attrib["points"] for line in ET.parse(path).getroot().iter() if line.tag.endswith("polyline")]
    assert len(points) == 2
    ys = [float(point.split(",")[1]) for point in points[0].split()]
    assert ys == sorted(ys, reverse=True)
