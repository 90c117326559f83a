"""`ports.Neighbourhood` on the local network: multicast DNS (RFC 6762), by python-zeroconf, which libp2p brings along.

    <name>._sudocode-coord._tcp.local.   SRV: port   A: addresses

The name is a hash of the peer id (`core.nearby.name_on_network`): who knows the peer from the branch recognises it, and to
everybody else it says nothing. Nothing else is told: no agent, no repository, no key. Whoever answers there has to prove to be
that peer.

python-zeroconf has threads of its own. Nothing is sent while only loopback is listened on.
"""

from __future__ import annotations

import json
import logging
import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from sudocode_coordination.adapters.ports import Deliver
from sudocode_coordination.core.io import AddressesSighted
from sudocode_coordination.core.nearby import MAX_TOLD, SERVICE, name_on_network, told_on_network
from sudocode_coordination.model import PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

MAX_SERVICES: Final = 500
"""Others that are kept: more daemons than a local network has. What comes after is not looked at."""
_ANSWER_MS: Final = 1_500
"""For another daemon's address: it is in the same network."""
_LEAVE_SECONDS: Final = 2.0


class Lan:
    """See above. `run` it; `show_record` may be called before.

    Args:
        peer_id: who this is.
        deliver: gets `AddressesSighted`.
    """

    def __init__(self, peer_id: PeerId, deliver: Deliver) -> None:
        self._name = name_on_network(peer_id)
        self._deliver = deliver
        self._record: bytes | None = None
        self._changed = trio.Event()
        self._there: dict[str, tuple[str, ...]] = {}
        self._shown: tuple[int, tuple[str, ...]] | None = None
        self._zeroconf: Any = None
        self._browser: Any = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._complaint = ""

    def show_record(self, data: bytes) -> None:
        self._record = data
        self._changed.set()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell and listen until cancelled; then say goodbye."""
        self._token = trio.lowlevel.current_trio_token()
        task_status.started()
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                wanted = told_on_network(json.loads(self._record or b"{}").get("multiaddrs", ()))
                if wanted != self._shown:
                    # Not abandoned: it takes a second at the most, and a thread left behind would go on sending.
                    await trio.to_thread.run_sync(self._show, wanted)
        finally:
            with trio.CancelScope(deadline=trio.current_time() + _LEAVE_SECONDS, shield=True):
                await trio.to_thread.run_sync(self._leave, abandon_on_cancel=True)  # type: ignore[call-arg]

    # --- in threads -------------------------------------------------------------------------------------------------------

    def _show(self, wanted: tuple[int, tuple[str, ...]] | None) -> None:
        from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, Zeroconf

        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # it warns of every network that lets no multicast through
        self._leave()
        if wanted is None:
            return
        port, addresses = wanted
        try:
            self._zeroconf = Zeroconf(interfaces=list(addresses), ip_version=IPVersion.V4Only)
            self._browser = ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._on_change])
            info = ServiceInfo(
                SERVICE,
                f"{self._name}.{SERVICE}",
                addresses=[socket.inet_aton(address) for address in addresses],
                port=port,
                server=f"{self._name}.local.",
            )
            self._zeroconf.register_service(info, allow_name_change=False, cooperating_responders=True)
            self._shown = wanted
        except Exception as error:  # noqa: BLE001 - whatever the network does not allow, clones meet by the branch
            self._leave()
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("daemons on the local network are not looked for: %s", str(error) or type(error).__name__)

    def _leave(self) -> None:
        found, self._zeroconf, self._shown, self._browser = self._zeroconf, None, None, None
        if found is not None:
            found.close()

    def _on_change(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        """In the browser's thread."""
        from zeroconf import ServiceStateChange

        who = name.removesuffix("." + service_type)
        if who == self._name or len(who) > len(self._name):
            return
        addresses: tuple[str, ...] = ()
        if state_change is not ServiceStateChange.Removed:
            info = zeroconf.get_service_info(service_type, name, timeout=_ANSWER_MS)
            if info is not None and info.port:
                addresses = tuple(f"/ip4/{host}/tcp/{info.port}" for host in info.parsed_addresses()[:MAX_TOLD] if "." in host)
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._sighted, who, addresses)
            except trio.RunFinishedError:
                return  # the daemon has ended meanwhile

    # --- in the daemon's loop ---------------------------------------------------------------------------------------------

    def _sighted(self, who: str, addresses: tuple[str, ...]) -> None:
        if addresses == self._there.get(who, ()):
            return
        if not addresses:
            del self._there[who]
        elif who in self._there or len(self._there) < MAX_SERVICES:
            self._there[who] = addresses
        else:
            return
        self._deliver(AddressesSighted(addresses=dict(self._there)))
