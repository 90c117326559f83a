"""Write the parts of `plugins/claude-code` that the code decides, so that they can't differ from what `coord init` sets up.

uv run scripts/make_plugin.py           write them
uv run scripts/make_plugin.py --check   exit code 1 if one is out of date
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from sudocode_coordination.hooks.jsontext import written
from sudocode_coordination.hooks.servers import NAME
from sudocode_coordination.hooks.settings import claude_hooks

ROOT: Final = Path(__file__).resolve().parent.parent
PLUGIN: Final = Path("plugins/claude-code")
RUN: Final = "${CLAUDE_PLUGIN_ROOT}/bin/coord-run"


def parts() -> dict[Path, Any]:
    """Each file below the root, and its JSON."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    about = {"name": "coordination", "description": project["description"]}
    hooks = {event: [entry] for event, entry in claude_hooks(f'"{RUN}"').items()}
    return {
        Path(".claude-plugin/marketplace.json"): {
            "name": project["name"],
            "owner": {"name": f"{project['name']} contributors"},
            "plugins": [{**about, "source": f"./{PLUGIN}"}],
        },
        PLUGIN / ".claude-plugin" / "plugin.json": {**about, "version": project["version"], "license": project["license"]},
        PLUGIN / "hooks" / "hooks.json": {"hooks": hooks},
        PLUGIN / ".mcp.json": {"mcpServers": {NAME: {"command": RUN, "args": ["mcp"]}}},
    }


def main(arguments: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    stale = [
        path for path, value in parts().items() if not (ROOT / path).exists() or (ROOT / path).read_text("utf-8") != written(value)
    ]
    for path in stale:
        if not check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(written(parts()[path]), "utf-8")
        sys.stdout.write(f"{path}: {'out of date: uv run scripts/make_plugin.py' if check else 'written'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
