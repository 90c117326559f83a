"""Networks of our own for tests: machines with public addresses, NATs with machines behind them, firewalls. Each is a network
namespace; nothing of the machine's own network is touched."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest

_runs = itertools.count()

FILTER: Final = """
table inet filter {
  chain input { type filter hook input priority 0; policy accept; iifname "wan" ct state new drop; }
  chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname "lan" accept; }
}
table ip nat {
  chain post { type nat hook postrouting priority 100; oifname "wan" masquerade %s; }
}
"""
"""What a home router does: nothing comes in that was not asked for, and all go out under one address."""


def why_not() -> str | None:
    """Why there can be no such networks here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    missing = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed (packages iproute2, nftables, util-linux)"
    if os.geteuid():
        return "only root may make network namespaces"
    try:
        with Internet() as net:
            net.nat("try", "203.0.113.1/24", "10.1.0.1/24")
    except OSError as error:
        return f"no network namespaces with NAT here: {error}"
    return None


def require_networks() -> None:
    """Skip the test where they can't be made."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


def _run(*command: str, given: str | None = None) -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


class Internet:
    """A segment on which all public addresses are, and what is attached to it.

    Raises:
        OSError: it can't be made here.
    """

    def __init__(self) -> None:
        self._run = f"sc-{os.getpid()}-{next(_runs)}"
        self._spaces: list[str] = []
        self._ports = itertools.count()
        self._space("hub")
        self._bridge("wan")

    def __enter__(self) -> Internet:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove all; processes in it must have ended."""
        for space in self._spaces:
            with suppress(OSError):
                _run("ip", "netns", "del", space)

    def _space(self, name: str) -> None:
        space = f"{self._run}-{name}"
        _run("ip", "netns", "add", space)
        self._spaces.append(space)
        self.ip(name, "link", "set", "lo", "up")

    def _bridge(self, name: str) -> None:
        self.ip("hub", "link", "add", f"br-{name}", "type", "bridge")
        self.ip("hub", "link", "set", f"br-{name}", "up")

    def ip(self, name: str, *arguments: str) -> None:
        """`ip` in a machine."""
        _run("ip", "-n", f"{self._run}-{name}", *arguments)

    def command(self, name: str) -> list[str]:
        """What to put before a command that is to run on a machine."""
        return ["nsenter", f"--net=/run/netns/{self._run}-{name}"]

    def rules(self, name: str, text: str) -> None:
        """Give a machine packet filter rules, instead of those that it has."""
        _run(*self.command(name), "nft", "-f", "-", given="flush ruleset\n" + text)

    def _attach(self, name: str, bridge: str, device: str, address: str) -> None:
        port = f"p{next(self._ports)}"
        space = f"{self._run}-{name}"
        self.ip("hub", "link", "add", "name", port, "type", "veth", "peer", "name", device, "netns", space)
        self.ip("hub", "link", "set", port, "master", f"br-{bridge}")
        self.ip("hub", "link", "set", port, "up")
        self.ip(name, "addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        self.ip(name, "link", "set", device, "up")

    def machine(self, name: str, address: str) -> None:
        """A machine with a public address, such as 203.0.113.10/24."""
        self._space(name)
        self._attach(name, "wan", "wan", address)

    def nat(self, name: str, outer: str, inner: str, *, symmetric: bool = False) -> None:
        """A router with its public address and its address in its own network. `symmetric`: another outer port for every target,
        so that nobody can tell another peer where to punch."""
        self._space(name)
        self._bridge(name)
        self._attach(name, "wan", "wan", outer)
        self._attach(name, name, "lan", inner)
        _run(*self.command(name), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.rules(name, FILTER % ("fully-random" if symmetric else ""))

    def behind(self, nat: str, name: str, address: str) -> None:
        """A machine in the network of that router."""
        self._space(name)
        self._attach(name, nat, "lan", address)
        first = address.rpartition(".")[0] + ".1"
        self.ip(name, "route", "add", "default", "via", first)


@contextmanager
def internet() -> Iterator[Internet]:
    """One that is removed at the end; the test is skipped where there can be none."""
    require_networks()
    with Internet() as net:
        yield net
