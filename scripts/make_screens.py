"""Put what `coord watch` shows into `docs/watch.md`: real daemons in three clones, and the view in a pseudo-terminal.

uv run scripts/make_screens.py           write it
uv run scripts/make_screens.py --check   exit code 1 if it looks otherwise now (times do not count)
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, it has only its own folder

from tests.e2e.clones import COORD, connected, repository, wait_for  # noqa: E402
from tests.views.conftest import normalised  # noqa: E402
from tests.views.terminal import Terminal  # noqa: E402

from sudocode_coordination.api.requests import AcquireLease  # noqa: E402
from sudocode_coordination.client.blocking import Client  # noqa: E402
from sudocode_coordination.model import Resource  # noqa: E402
from sudocode_coordination.place import find_clone  # noqa: E402

PAGE: Final = ROOT / "docs" / "watch.md"
_SCREEN: Final = re.compile(r"(<!-- screen: (\w+) -->\n```text\n)(.*?)(```\n)", re.DOTALL)


def screens() -> dict[str, str]:
    """Screens by name."""
    with repository("alice", "bob", "carol") as clones:
        for clone in clones:
            clone.start()
        wait_for("they are connected", lambda: connected(*clones), 60.0)
        alice, bob, carol = (Client(find_clone(clone.folder), folder=clone.folder) for clone in clones)
        with alice, bob, carol, Terminal([COORD, "watch"], clones[0].folder) as seen:
            _work(alice, bob, carol)
            lists = seen.until("all of it", lambda text: all(part in text for part in ("2 Work 2", "4 Queue 1", "#42")))
            seen.press("/auth\r")
            seen.until("the filter", "(1 shown; Esc: all)")
            seen.press("\r")
            full = seen.until("all about it", lambda text: "history" in text and "also here" in text)
            seen.press("q")
            seen.until("the lists", "q quit")
            seen.press("q")
            seen.ended()
    return {"lists": lists, "inspect": full}


def _work(alice: Client, bob: Client, carol: Client) -> None:
    assert bob.acquire_lease(["src/auth.py", "src/tokens.py"], note="token refresh", priority=5)
    assert alice.acquire_lease("src/api/", note="pagination")
    assert carol.acquire_lease("docs/", mode="shared")
    assert carol.acquire_lease(Resource("issue", "#42"), note="triage")
    bob.set_work(issues=["#17"], files=["src/auth.py"], status="Token refresh")
    alice.set_work(files=["src/api/list.py"], status="Pagination")
    # It waits for as long as carol is connected.
    carol.connection.ask(
        AcquireLease(resources=(Resource("file", "src/auth.py"),), wait_ms=0, note="imports"), lambda _answer: None
    )


def main() -> int:
    """Write the page, or look at it."""
    parser = argparse.ArgumentParser(description="what coord watch shows, into docs/watch.md")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page, shown = PAGE.read_text("utf-8"), screens()
    if check:
        return 0 if all(normalised(m[3]) == normalised(shown[m[2]] + "\n") for m in _SCREEN.finditer(page)) else 1
    PAGE.write_text(_SCREEN.sub(lambda m: m[1] + shown[m[2]].rstrip() + "\n" + m[4], page), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
