"""The ports of a stack, all on loopback: fixed, counted up from a base, or free ones; and who has taken one."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace

import psutil  # type: ignore[import-untyped]  # it ships no types

from cli.stack.errors import PortTaken

LOOPBACK = "127.0.0.1"
# Below the range from which Linux takes the ports of outgoing connections, so that none of those gets in between.
_FREE_RANGE = range(15_000, 32_000)


@dataclass(frozen=True, slots=True)
class Ports:
    """One port for each part that listens."""

    api: int = 8080
    temporal_ui: int = 8233
    temporal: int = 7233
    postgres: int = 5433
    valkey: int = 6380
    broker: int = 8081
    provider: int = 8082

    @classmethod
    def from_base(cls, base: int) -> Ports:
        """Counts up from a base, in the order of the fields."""
        return cls(*(base + offset for offset in range(len(fields(cls)))))

    @classmethod
    def free(cls) -> Ports:
        """Picks ports that nothing listens on."""
        chosen: list[int] = []
        while len(chosen) < len(fields(cls)):
            port = random.choice(_FREE_RANGE)  # noqa: S311 (no secret)
            if port not in chosen and is_free(port):
                chosen.append(port)
        return cls(*chosen)

    def with_free(self) -> Ports:
        """Returns the same with free ports where the port is 0."""
        free = asdict(Ports.free())
        return replace(self, **{name: free[name] for name, port in asdict(self).items() if port == 0})


def is_free(port: int) -> bool:
    """Says whether a server could listen on a port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as servers do; a port whose last connections are still closing is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def listener(port: int) -> str:
    """Names the process that listens on a port, as far as this account may know."""
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid is not None:
            try:
                process = psutil.Process(connection.pid)
                return f"by {process.name()} (process {connection.pid}: {' '.join(process.cmdline())[:120]})"
            except psutil.Error:
                return f"by process {connection.pid}"
    return "by a process of another user, or it is reserved for root"


def check_free(ports: Ports, needed: Iterable[str]) -> None:
    """Makes sure that nothing else listens on the ports that are needed.

    Raises:
        PortTaken: Names each port that is taken, and the process that has it.
    """
    names = list(needed)
    numbers = {name: getattr(ports, name) for name in names}
    if doubled := [name for name in names if list(numbers.values()).count(numbers[name]) > 1]:
        raise PortTaken(f"{' and '.join(doubled)} are given the same port {numbers[doubled[0]]}")
    taken = [
        f"port {number} ({name}) is taken {listener(number)}" for name, number in numbers.items() if not is_free(number)
    ]
    if taken:
        raise PortTaken(
            "; ".join(taken), remedy="stop it, name another port, or let --port-base 0 pick free ports for all"
        )
