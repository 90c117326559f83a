"""From start to stop: the connection to the clone's daemon, and that daemon itself if it is ours."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from typing import Final

from sudocode_coordination.client.blocking import Client
from sudocode_coordination.client.connect import Connection
from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.errors import AlreadyRunningError, CoordinationError, DaemonError, NoDaemonError, TimedOutError
from sudocode_coordination.place import Clone

START_LIMIT_S: Final = 60.0
"""For the daemon to become active: importing libp2p on a very busy machine."""
JOIN_LIMIT_S: Final = 20.0
"""For the daemon's thread to end; it gives itself twelve seconds."""
RETRY_S: Final = 0.05
"""While another process's daemon has the lock and not yet the socket."""

log = logging.getLogger(__name__)


class Host:
    """A daemon on a thread of this process."""

    def __init__(self, clone: Clone, config: CoordinationConfig) -> None:
        self._clone = clone
        self._config = config
        self._active = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="coordination-daemon", daemon=True)

    def start(self) -> None:
        """Returns when it is active.

        Raises:
            AlreadyRunningError: another process is this clone's daemon.
            CoordinationError: it can't start.
        """
        self._thread.start()
        if not self._active.wait(START_LIMIT_S):
            raise TimedOutError(f"the daemon was not active after {START_LIMIT_S:.0f} s", hint="`coord doctor` may say why")
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def join(self) -> None:
        """Wait until it has ended.

        Raises:
            TimedOutError: it does not end.
        """
        self._thread.join(JOIN_LIMIT_S)
        if self._thread.is_alive():
            raise TimedOutError("the daemon's thread does not end", hint="end this process")

    def _live(self) -> None:
        try:
            import trio

            from sudocode_coordination.daemon.body import Daemon, RealSurroundings
            from sudocode_coordination.daemon.lifecycle import hold, with_case_rule

            with hold(self._clone) as holding:
                config = with_case_rule(self._clone, self._config)
                parts = RealSurroundings(self._clone, config)
                daemon = Daemon(holding, config, parts, ready=self._active.set, signals=False)
                trio.run(daemon.run)
        except BaseException as error:
            self._failure = error
            if self._active.is_set():
                log.critical("the daemon of this process has ended by a fault", exc_info=error)
        finally:
            self._active.set()


class Session:
    """From start to stop: the connection, and the daemon if it is ours."""

    def __init__(self, clone: Clone, config: CoordinationConfig) -> None:
        self._config = config
        self._host: Host | None = None
        self.connection = self._open(clone)
        self.closed = False
        self._lock = threading.Lock()
        self.calls = Client(clone, agent=config.agent_id, folder=clone.root, connection=self.connection)
        try:
            if self._host is None:
                self.calls.attach(config.agent_id, capabilities=config.capabilities, bound=True)
        except BaseException:
            self.close()
            raise
        atexit.register(self._at_exit)

    @property
    def owns_daemon(self) -> bool:
        """Whether the daemon is of this process."""
        return self._host is not None

    def _open(self, clone: Clone) -> Connection:
        give_up = time.monotonic() + START_LIMIT_S
        while True:
            try:
                return Connection(clone)
            except NoDaemonError:
                pass
            host = Host(clone, self._config)
            try:
                host.start()
                self._host = host
            except AlreadyRunningError:  # its socket will be there in a moment
                if time.monotonic() > give_up:
                    raise
                time.sleep(RETRY_S)

    def close(self) -> None:
        """Release everything and leave. More than once does nothing."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        atexit.unregister(self._at_exit)
        try:
            if self._host is not None:
                self.calls.stop()
            else:
                self.calls.detach(self._config.agent_id)
        except DaemonError as error:
            log.warning("the daemon could not be told to let go: %s", error)
        finally:
            self.connection.close()
        if self._host is not None:
            self._host.join()

    def _at_exit(self) -> None:
        try:
            self.close()
        except CoordinationError as error:
            log.warning("leaving: %s", error)
