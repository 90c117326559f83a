"""Agents and people on one git repository see each other's work and lease what they touch, peer to peer, with no server.

Public names are loaded when they are first used: a hook that runs at every edit must not pay for what it does not touch.
"""

# No import here, not even `typing` (15 ms): `coord check` runs at every edit. Type checkers take the name for true.
TYPE_CHECKING = False

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sudocode_coordination.agent import BlockingCoordinationAgent as BlockingCoordinationAgent
    from sudocode_coordination.agent import CoordinationAgent as CoordinationAgent
    from sudocode_coordination.api.events import Event as Event
    from sudocode_coordination.client.aio import AsyncClient as AsyncClient
    from sudocode_coordination.client.blocking import Client as Client
    from sudocode_coordination.config import CoordinationConfig as CoordinationConfig
    from sudocode_coordination.config import create_default_config as create_default_config
    from sudocode_coordination.errors import CoordinationError as CoordinationError

_HOMES = {
    "AsyncClient": "client.aio",
    "BlockingCoordinationAgent": "agent",
    "Client": "client.blocking",
    "CoordinationAgent": "agent",
    "CoordinationConfig": "config",
    "CoordinationError": "errors",
    "Event": "api.events",
    "create_default_config": "config",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
