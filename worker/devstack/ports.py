import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from worker.devstack.processes import StartFailed

HOST = "127.0.0.1"


@contextmanager
def reserved_ports(*requested: int | None) -> Iterator[list[int]]:
    """Reserve ports of 127.0.0.1: each requested one, and a free one for each None.

    Linux gives no other process a port that is bound here, but lets a server listen on it because
    both set SO_REUSEADDR, so parallel starts cannot collide. On other systems the ports are
    released at once, and another process may take one first. Raises StartFailed if a requested port
    is taken.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(_bind(port)) for port in requested]
        ports = [bound.getsockname()[1] for bound in sockets]
        if sys.platform != "linux":
            stack.close()
        yield ports


def is_free(port: int) -> bool:
    """Return whether a server can use this port of 127.0.0.1."""
    try:
        _bind(port).close()
    except StartFailed:
        return False
    return True


def _bind(port: int | None) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port or 0))
    except OSError as error:
        bound.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise StartFailed(
            f"Port {port} of {HOST} is taken by another process. Choose another port, or omit the "
            "option to use a free one."
        ) from None
    return bound
