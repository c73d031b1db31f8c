"""A primary, two replicas and three sentinels, any of which a test may stop."""

import signal
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.waiting import wait_until
from worker.dev.child_processes import HOST, ChildProcess, Program, reserved_ports, running
from worker.dev.embedded_servers import find_valkey

NAME = "main"
PASSWORD, SENTINEL_PASSWORD = "of:servers@1", "of;sentinels&2"
_DOWN_AFTER = 2_000  # milliseconds, as in docs/availability.md
_READY_SECONDS = 60.0
_COUNT = 3


class SentinelGroup:
    """Three servers, the first of which is the primary at first, and three sentinels.

    With an authority, all of them only speak TLS, ask for a password, and are named `localhost`.
    """

    def __init__(
        self, data: Path, authority: CertificateAuthority | None = None, program: str = ""
    ) -> None:
        self._data = data
        self._program = program or find_valkey()
        self._authority = authority
        self._host = HOST if authority is None else "localhost"
        self._tls = {} if authority is None else _tls_files(authority)
        self._stack = ExitStack()
        ports = self._stack.enter_context(reserved_ports(*[None] * 2 * _COUNT))
        self.servers, self.sentinels = ports[:_COUNT], ports[_COUNT:]
        self._runs: dict[int, tuple[ExitStack, ChildProcess]] = {}
        for port in ports:
            self.start(port)
        wait_until(self._is_complete, _READY_SECONDS, "the sentinels know all servers")

    def url(self, database: int = 0) -> str:
        """Return the URL that valetkey is given."""
        hosts = ",".join(f"{self._host}:{port}" for port in self.sentinels)
        login, options = "", f"master_name={NAME}"
        if self._authority is not None:
            login = ":of%3Aservers%401@"
            options += "&sentinel_password=of%3Bsentinels%262&ssl=true"
            options += f"&ssl_ca_certs={self._authority.file}"
        return f"sentinel://{login}{hosts}/{database}?{options}"

    def client(self, port: int, **options: Any) -> "redis.Redis":
        """Return a client of a server or of a sentinel."""
        if self._authority is not None:
            password = SENTINEL_PASSWORD if port in self.sentinels else PASSWORD
            options |= {"password": password, "ssl": True, "ssl_ca_certs": self._authority.file}
        retry = Retry(NoBackoff(), 0)
        return redis.Redis(self._host, port, retry=retry, socket_timeout=2, **options)

    def primary(self) -> int:
        """Return the port of the primary, as the sentinels agree on it."""
        ports = set()
        for sentinel in self.sentinels:
            with self.client(sentinel) as client:
                address: Any = client.sentinel_get_master_addr_by_name(NAME)
                ports.add(address[1])
        assert len(ports) == 1, ports
        return int(ports.pop())

    def fail_over(self) -> None:
        """Let a sentinel make another server the primary."""
        with self.client(self.sentinels[0]) as client:
            client.execute_command("SENTINEL", "FAILOVER", NAME)

    def wait_for_another(self, primary: int) -> None:
        """Wait until all sentinels name another server, which takes writes."""

        def has_another() -> bool:
            try:
                port = self.primary()
                with self.client(port) as client:
                    return port != primary and bool(client.set("valetkey.probe", "", ex=60))
            except (redis.RedisError, AssertionError):
                return False

        wait_until(has_another, _READY_SECONDS, "another server is the primary")

    def wait_for_replicas(self) -> None:
        """Wait until two replicas follow the primary."""
        wait_until(self._is_complete, _READY_SECONDS, "two replicas follow the primary")

    def start(self, port: int) -> None:
        """Start a server or a sentinel, again or for the first time."""
        is_sentinel = port in self.sentinels
        folder = self._data / str(port)
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "server.conf"
        if not config.exists():  # a sentinel, and a demoted server, have changed theirs
            lines = self._sentinel_lines() if is_sentinel else self._server_lines(port)
            words = {"tls-port" if self._tls else "port": port, "bind": HOST, **self._tls}
            lines += [f"{name} {value}" for name, value in words.items()]
            lines += ["port 0"] if self._tls else []
            config.write_text("\n".join([f"dir {folder}", *lines, ""]))
        command = (self._program, str(config), *(["--sentinel"] if is_sentinel else []))
        log = self._data / "logs" / f"{port}.log"
        program = Program(str(port), command, folder, log)
        stack = ExitStack()
        child = stack.enter_context(running(program, partial(self._responds, port)))
        self._runs[port] = stack, child

    def kill(self, port: int) -> None:
        """End a server or a sentinel with SIGKILL."""
        stack, child = self._runs.pop(port)
        child.process.kill()
        child.process.wait()
        stack.close()

    def send(self, port: int, signal_number: signal.Signals) -> None:
        """Send a signal to a server or a sentinel."""
        self._runs[port][1].process.send_signal(signal_number)

    def close(self) -> None:
        for stack, child in self._runs.values():
            child.process.send_signal(signal.SIGCONT)
            stack.close()
        self._stack.close()

    def _server_lines(self, port: int) -> list[str]:
        lines = ["appendonly yes", 'save ""', "maxmemory 1gb", "maxmemory-policy noeviction"]
        lines += ["repl-diskless-sync-delay 0", f"replica-announce-ip {self._host}"]
        if self._authority is not None:
            lines += [f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"']
            lines += ["tls-replication yes"]
        primary = self.servers[0]
        return lines + ([] if port == primary else [f"replicaof {self._host} {primary}"])

    def _sentinel_lines(self) -> list[str]:
        lines = ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"]
        lines += [f"sentinel monitor {NAME} {self._host} {self.servers[0]} 2"]
        lines += [f"sentinel down-after-milliseconds {NAME} {_DOWN_AFTER}"]
        lines += [f"sentinel failover-timeout {NAME} 10000"]
        if self._authority is not None:
            lines += [f'sentinel auth-pass {NAME} "{PASSWORD}"', "tls-replication yes"]
            lines += [f'requirepass "{SENTINEL_PASSWORD}"']
            lines += [f'sentinel sentinel-pass "{SENTINEL_PASSWORD}"']
        return lines

    def _is_complete(self) -> bool:
        """Return whether each sentinel knows the others, and two healthy replicas."""
        try:
            return all(map(self._knows_all, self.sentinels))
        except (redis.RedisError, AssertionError):
            return False

    def _knows_all(self, sentinel: int) -> bool:
        with self.client(sentinel) as client:
            state: Any = client.sentinel_master(NAME)
            replicas: Any = client.sentinel_slaves(NAME)
        good = [
            each for each in replicas if each["master-link-status"] == "ok" and not each["is_sdown"]
        ]
        is_up = state["flags"] == "master" or "down" not in str(state["flags"])
        return is_up and state["num-other-sentinels"] == _COUNT - 1 and len(good) == _COUNT - 1

    def _responds(self, port: int, _child: ChildProcess) -> bool:
        with self.client(port) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def _tls_files(authority: CertificateAuthority) -> Mapping[str, object]:
    file = authority.server_file("localhost")
    return {
        "tls-cert-file": file,
        "tls-key-file": file,
        "tls-ca-cert-file": authority.file,
        "tls-auth-clients": "no",
    }
