"""`python -m sudocode_coordination.daemon --repository PATH [--config JSON] [--ready-fd N] [--detach]`

The readiness pipe (`--ready-fd`) gets lines of JSON: `{"pid": …}` first, then `{"ready": true}` or `{"error": {code, message,
hint}}`; then it is closed.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sudocode_coordination.config import CoordinationConfig
    from sudocode_coordination.daemon.body import Surroundings
    from sudocode_coordination.place import Clone

EXIT_LIMIT_S: Final = 5.0
"""For threads and connections to end after the daemon has: then the process ends without them."""
GC_THRESHOLDS: Final = (10_000, 20, 20)
"""Objects that come into being between two collections (a frame of leases makes some ten thousand), and the older generations."""


def main(arguments: list[str], surroundings: type[Surroundings] | None = None) -> int:
    """Run a daemon; the exit code.

    Args:
        surroundings: other parts than the real ones, made with (clone, config).
    """
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="sudocode_coordination.daemon", description="The coordination daemon of one clone.")
    parser.add_argument("--repository", required=True, help="a folder in the clone")
    parser.add_argument("--config", default="{}", help="configuration keys as JSON; they go before everything else")
    parser.add_argument("--ready-fd", type=int, help="file descriptor that is told when it is active")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    parser.add_argument("--new-key", action="store_true", help="give the clone a new key and end; prints {old, new} as JSON")
    options = parser.parse_args(arguments)
    if options.new_key:
        return _rotate(options.repository)
    if options.detach:
        _detach()
    report = _Report(options.ready_fd)
    report.say({"pid": os.getpid()})
    return _run(options.repository, options.config, report, detached=options.detach, surroundings=surroundings)


def _rotate(repository: str) -> int:
    """One line of JSON: the old and the new peer id, or the error."""
    from sudocode_coordination.errors import CoordinationError
    from sudocode_coordination.place import find_clone

    try:
        from sudocode_coordination.daemon.rotation import rotate

        old, new = rotate(find_clone(repository))
    except CoordinationError as error:
        sys.stdout.write(json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}}) + "\n")
        return error.exit_code
    sys.stdout.write(json.dumps({"old": old, "new": new}) + "\n")
    return 0


def _detach() -> None:
    """Become a child of init: whoever started this has nothing to wait for, and no terminal to lose."""
    if os.fork():
        os._exit(0)
    os.setsid()


class _Report:
    """The readiness pipe. Nobody may be reading any more: then the daemon goes on all the same."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def say(self, message: dict[str, Any], *, last: bool = False) -> None:
        """Write a line."""
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
        except OSError:
            last = True
        if last:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def asked_for(self) -> bool:
        """Whether somebody waits."""
        return self._descriptor is not None


def _run(repository: str, config_json: str, report: _Report, *, detached: bool, surroundings: type[Surroundings] | None) -> int:
    import logging

    from sudocode_coordination.errors import CoordinationError
    from sudocode_coordination.place import find_clone

    try:
        clone = find_clone(repository)
        from sudocode_coordination.daemon.lifecycle import hold, log_to_file, settle_config, settle_home, with_case_rule

        with hold(clone) as holding:
            if not detached:
                logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
            log_to_file(clone)
            if detached:
                _keep_last_words(clone)
            try:
                settle_home(clone)
                holding.flags = json.loads(config_json)
                config = with_case_rule(clone, settle_config(clone, holding.flags))
                _live(clone, config, holding, report, surroundings)
            except CoordinationError as error:
                logging.getLogger("sudocode_coordination.daemon").error("%s", error)
                raise
            except BaseException:
                logging.getLogger("sudocode_coordination.daemon").critical("the daemon ends by a fault", exc_info=True)
                raise
    except CoordinationError as error:
        _tell(report, {"code": error.code, "message": error.message, "hint": error.hint})
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last place where it can be told; the log has the trace
        message = f"the daemon ended by a fault: {type(error).__name__}: {error}"
        _tell(report, {"code": "failed", "message": message, "hint": "its log is daemon.log in the state folder"})
        return 1
    return 0


def _keep_last_words(clone: Clone) -> None:
    """What native code and the interpreter itself print before they die belongs into the log as well."""
    import faulthandler

    from sudocode_coordination.daemon.lifecycle import LOG_FILE

    target = os.open(clone.state_file(LOG_FILE), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, standard in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(source, standard)
    os.close(target)
    os.close(nothing)
    faulthandler.enable(2)


def _live(clone: Clone, config: CoordinationConfig, holding: Any, report: _Report, surroundings: Any) -> None:
    import trio

    from sudocode_coordination.daemon.body import Daemon, RealSurroundings

    def ready() -> None:
        report.say({"ready": True}, last=True)
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        gc.enable()

    # A process of its own may do this. Most objects are made by imports and stay: looking them through again and again took a
    # tenth to a quarter of the imports, and half of the time in which ten thousand leases are joined (docs/benchmarks.md).
    gc.disable()
    parts = (surroundings or RealSurroundings)(clone, config)
    daemon = Daemon(holding, config, parts, ready=ready, signals=True)
    try:
        trio.run(daemon.run)
    finally:
        last_resort = threading.Timer(EXIT_LIMIT_S, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()


def _tell(report: _Report, error: dict[str, str]) -> None:
    if report.asked_for:
        report.say({"error": error}, last=True)
    else:
        sys.stderr.write(f"error: {error['message']}\n" + (f"hint: {error['hint']}\n" if error["hint"] else ""))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
