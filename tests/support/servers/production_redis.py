"""Valkey with the files of examples/production."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.dev.child_processes import HOST, ChildProcess, Program, reserved_ports, running
from worker.dev.embedded_servers import find_valkey

_EXAMPLES = Path(__file__).parents[3] / "examples" / "production"
_PLACEHOLDER = re.compile(r"(#SHA256_OF_THE_PASSWORD_OF_([\w-]+))")


def password_of(user: str) -> str:
    """Return the password that a user has in tests."""
    return f"password-of-{user}"


@dataclass(frozen=True)
class ProductionRedis:
    """A server with the users of users.acl, without TLS."""

    port: int

    def client(self, user: str, database: int = 0) -> Any:
        """Return a connection as one of the users."""
        return redis.Redis(
            HOST, self.port, database, username=user, password=password_of(user), retry=_no_retry()
        )


@contextmanager
def running_production_redis(data: Path, without_password: str = "") -> Iterator[ProductionRedis]:
    """Run Valkey with redis.conf, except its options for TLS, and with passwords in users.acl.

    The user without_password keeps the placeholder. Raises StartFailed.
    """
    folder = data / "redis"
    folder.mkdir(parents=True)
    text = (_EXAMPLES / "users.acl").read_text(encoding="utf-8")
    for placeholder, user in _PLACEHOLDER.findall(text):
        if user != without_password:
            text = text.replace(placeholder, f"#{sha256(password_of(user).encode()).hexdigest()}")
    (folder / "users.acl").write_text(text)
    with reserved_ports(None) as (port,):
        (folder / "redis.conf").write_text(_local_config(port))
        program = Program(
            name="Valkey",
            command=(find_valkey(), "redis.conf"),
            folder=folder,
            log=data / "logs" / "redis.log",
        )
        server = ProductionRedis(port)
        with running(program, partial(_is_ready, server)):
            yield server


def _local_config(port: int) -> str:
    local = {"port": port, "bind": HOST, "dir": ".", "aclfile": "users.acl"}
    lines = (_EXAMPLES / "redis.conf").read_text(encoding="utf-8").splitlines()
    kept = [
        line for line in lines if not line.startswith(("tls-", *(f"{name} " for name in local)))
    ]
    return "\n".join([*kept, *(f"{name} {value}" for name, value in local.items())]) + "\n"


def _is_ready(server: ProductionRedis, child: ChildProcess) -> bool:
    with server.client("admin") as client:
        try:
            return bool(client.info("server")["process_id"] == child.pid)
        except redis.RedisError:
            return False


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)
