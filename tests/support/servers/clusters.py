"""A Valkey server in cluster mode."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.servers.waiting import wait_until
from worker.dev.child_processes import HOST, Program, reserved_ports, running
from worker.dev.embedded_servers import find_valkey


@contextmanager
def running_cluster(data: Path, *slots: int) -> Iterator[str]:
    """Run a Cluster of one server, which serves slots from the first to the last; yield its URL."""
    folder = data / "cluster"
    with reserved_ports(None, None) as (port, bus):
        command = (
            *(find_valkey(), "--bind", HOST, "--port", str(port), "--dir", ".", "--save", ""),
            *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
        )
        program = Program("cluster", command, folder, data / "logs" / "cluster.log")
        with (
            redis.Redis(HOST, port, retry=Retry(NoBackoff(), 0), socket_timeout=2) as client,
            running(program, lambda _: _responds(client)),
        ):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
            client.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "no")
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
            yield f"redis://{HOST}:{port}"


def _responds(client: "redis.Redis") -> bool:
    with suppress(redis.RedisError):
        return bool(client.ping())
    return False
