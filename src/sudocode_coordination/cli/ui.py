"""`coord ui`: a local web page that shows the swarm live."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from argparse import Namespace

import anyio

from sudocode_coordination.cli.session import Session
from sudocode_coordination.views.web.app import serve


def ui(session: Session, args: Namespace) -> int:
    """Serve it until Ctrl-C.

    Raises:
        NotARepositoryError: the current directory is in no repository.
        NetworkError: the port can't be had.
    """
    screen = session.screen
    clone = session.clone

    def started(opened: str, shown: str) -> None:
        if screen.as_json:
            screen.document({"url": shown, "clone": clone.root})
            return
        if args.no_open or not _has_browser():
            screen.line(f"open {shown}")
        else:
            # A browser that runs in the foreground, or takes long to start, must not keep the page from it.
            threading.Thread(target=webbrowser.open, args=(opened,), name="browser", daemon=True).start()
            screen.line(f"opened in your browser; or open {shown}")
        enter = "Enter: another link. " if sys.stdin.isatty() else ""
        screen.note(f"the link opens one browser, within ten minutes. {enter}Ctrl-C ends it")

    def another(shown: str) -> None:
        screen.line(f"open {shown}")

    # For a person at the keyboard, Ctrl-C is how it ends, not how it fails.
    anyio.run(
        lambda: serve(clone, session.agent, port=args.port, folder=os.getcwd(), started=started, another=another)  # noqa: PTH109
    )
    return 0


def _has_browser() -> bool:
    """Whether one with windows can be started: one in the terminal would fight with it over the keys."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
