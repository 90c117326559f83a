"""Scripts for shells, tried in the shells that are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sudocode_coordination.cli.completion import script_for


def completed(script: str, folder: Path, *words: str) -> set[str]:
    """What bash offers for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    ask = f"""
{script}
COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
declare -F | grep -q _shtab_ || exit 9
function=$(complete -p '{words[0]}' | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')
"$function" '{words[0]}' '{words[-1]}' '{words[-2]}'
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "--norc", "-c", ask], cwd=folder, capture_output=True, text=True, check=True)
    return {line.strip() for line in done.stdout.splitlines()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_choices_and_paths(tmp_path: Path) -> None:
    (tmp_path / "source.py").touch()
    script = script_for("bash", "coord")
    assert {"lease", "leases"} <= completed(script, tmp_path, "coord", "le")
    assert completed(script, tmp_path, "coord", "nonsen") == {""}
    assert {"--wait", "--strict", "--json"} <= completed(script, tmp_path, "coord", "lease", "--")
    assert completed(script, tmp_path, "coord", "completion", "z") == {"zsh"}
    assert completed(script, tmp_path, "coord", "lease", "sou") == {"source.py"}
    assert {"install", "check"} <= completed(script, tmp_path, "coord", "guard", "")
    assert "lease" in completed(script_for("bash", "sudocode"), tmp_path, "sudocode", "le")


@pytest.mark.parametrize(("shell", "option"), [("zsh", "-n"), ("fish", "--no-execute")])
def test_scripts_of_other_shells_are_well_formed(tmp_path: Path, shell: str, option: str) -> None:
    script = script_for(shell, "coord")
    assert all(name in script for name in ("lease", "--wait", "doctor"))
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, option, str(tmp_path / "script")], check=True, capture_output=True)
