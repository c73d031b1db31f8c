import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from worker.devstack.processes import StartFailed

HOST = "127.0.0.1"


@contextmanager
def reserved_ports(*wanted: int | None) -> Iterator[list[int]]:
    """Keep ports of 127.0.0.1 from everybody else: the wanted ones, and a free one for each None.

    Linux gives no other process a port that is bound here, yet lets a server listen on it as both
    say SO_REUSEADDR: two parallel starts cannot meet. Elsewhere the ports are let go at once, and
    whoever is faster has them. Raises NotStarted where a wanted port is taken.
    """
    with ExitStack() as holds:
        sockets = [holds.enter_context(_bound(port)) for port in wanted]
        ports = [bound.getsockname()[1] for bound in sockets]
        if sys.platform != "linux":
            holds.close()
        yield ports


def _bound(port: int | None) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port or 0))
    except OSError as error:
        bound.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise StartFailed(f"Port {port} of {HOST} is taken: give another one.") from None
    return bound
