"""The services of docker-compose.yml on this machine, without Docker.

Each host of the container network is a port of 127.0.0.1. The port that Docker would publish for
storage is closed unless a test opens it: in a container, 127.0.0.1 is the container itself, so that
the service must do without.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import redis
import yaml
from psycopg import sql
from sqlalchemy import make_url

from tests.support.docs.command_lines import ROOT
from tests.support.servers.external import running_postgres
from tests.support.servers.programs import Completed, run_program
from tests.support.servers.proxies import open_port
from tests.support.servers.waiting import wait_until
from worker.dev import embedded_servers
from worker.dev.child_processes import HOST, ChildProcess, Program, reserved_ports, running
from worker.dev.data_folder import StorageKeys
from worker.dev.embedded_servers import STORAGE_REGION, accepts_credentials, find_valkey, s3_client

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
_SCRIPT = re.compile(r"^RUN printf '(.*?)' > /venv/bin/valetkey", re.MULTILINE)


class Command(NamedTuple):
    """What a container runs: the words of the command, and its environment."""

    words: Sequence[str]
    environ: Mapping[str, str]


def read_services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the services of docker-compose.yml with the variables of a user's shell."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    text = _VARIABLE.sub(lambda match: variables.get(match[1]) or match[2], text)
    services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return services


class Image:
    """The image of the Dockerfile, as a folder: what it copies, its command and its variables."""

    def __init__(self, folder: Path) -> None:
        self.app = folder / "app"
        self._text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
        self._bin = folder / "bin"
        self._copy_app()
        self._write_script()

    @property
    def entrypoint(self) -> list[str]:
        words: list[str] = json.loads(self._last("ENTRYPOINT"))
        return words

    def command(
        self,
        words: Sequence[str],
        service: Mapping[str, Any],
        variables: Mapping[str, str],
        hosts: Mapping[str, str],
    ) -> Command:
        """Return what words of a service run on this machine.

        variables are those of a user's shell. hosts says where each HOST:PORT of the network is.
        """
        places = {mount["target"]: mount["source"] for mount in service.get("volumes", ())}
        words = [str(ROOT / places[word]) if word in places else word for word in words]
        local = {"python": sys.executable, "valetkey": str(self._bin / "valetkey")}
        words = [local.get(words[0], words[0]), *words[1:]]
        environ = self._environ(service, variables)
        return Command(words, {name: _replace(value, hosts) for name, value in environ.items()})

    def _environ(self, service: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
        image = dict(re.findall(r"(PYTHON\w+)=(\S+)", self._last("ENV")))
        assert image["PYTHONPATH"] == "/app"
        given = {
            name: variables.get(name) if value is None else str(value)
            for name, value in service["environment"].items()
        }
        return {
            **image,
            **{name: value for name, value in given.items() if value is not None},
            "PYTHONPATH": str(self.app),
            "PATH": f"{self._bin}:{Path(sys.executable).parent}:{os.defpath}",
            "HOME": "/nonexistent",
        }

    def _last(self, instruction: str) -> str:
        arguments: list[str] = re.findall(rf"^{instruction} (.+)$", self._text, re.MULTILINE)
        return arguments[-1]

    def _copy_app(self) -> None:
        for sources, target in re.findall(r"^COPY (?!--from)(.+) (\S+)$", self._text, re.MULTILINE):
            for name in sources.split():
                source, folder = ROOT / name, self.app / target
                if source.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(source, folder, ignore=ignored)
                else:
                    folder.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, folder)

    def _write_script(self) -> None:
        (text,) = _SCRIPT.findall(self._text)
        script = self._bin / "valetkey"
        self._bin.mkdir()
        script.write_text(text.replace("\\n", "\n").replace("/venv/bin/python", sys.executable))
        script.chmod(0o755)


def _replace(value: str, hosts: Mapping[str, str]) -> str:
    for name, address in hosts.items():
        value = value.replace(name, address)
    return value


WORKERS = ("worker", "upkeep", "events")
_STORAGE_PORTS = 10  # S3, and what the other servers of SeaweedFS listen on
_HOSTS = ("redis:6379", "postgres:5432", "seaweedfs:8333")


@dataclass(frozen=True)
class ComposeStack:
    """The running services. public_endpoint is the address of storage in links."""

    services: Mapping[str, Mapping[str, Any]]
    image: Image
    variables: Mapping[str, str]
    hosts: Mapping[str, str]
    ports: Sequence[int]
    data: Path

    @property
    def public_endpoint(self) -> str:
        return f"http://{HOST}:{self.variables['VALETKEY_S3_PORT']}"

    @property
    def internal_address(self) -> str:
        return self.hosts["seaweedfs:8333"]

    @property
    def broker_url(self) -> str:
        """The broker's URL on the machine of the containers, where its port is published."""
        return f"redis://{self.hosts['redis:6379']}/0"

    def storage(self) -> Any:
        """Return a client with the keys of storage, at its internal address."""
        environ = self.services["seaweedfs"]["environment"]
        keys = StorageKeys(environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"])
        return s3_client(f"http://{self.internal_address}", keys, STORAGE_REGION)

    def published_storage(self) -> AbstractContextManager[None]:
        """Open the published port of storage."""
        public_port = int(self.variables["VALETKEY_S3_PORT"])
        return open_port(public_port, int(self.internal_address.rpartition(":")[2]))

    def run(self, name: str, *arguments: str, stdin: str = "", **variables: str) -> Completed:
        """Run a service to its end, as `docker compose run` does; by default with its command."""
        return self._complete(self._command(name, arguments, **variables), stdin)

    def is_healthy(self, name: str, container: str | None = None) -> bool:
        """Run the health check of a service, in its container or in that of another service."""
        service = self.services[name]
        kind, *words = service["healthcheck"]["test"]
        assert kind == "CMD"
        command = self.image.command(words, service, self.variables, self.hosts)
        environ = {**command.environ, **self._own_tmp(container or name)}
        return self._complete(Command(command.words, environ)).returncode == 0

    def program(self, name: str) -> Program:
        """Return a service that runs until it is stopped."""
        command = self._command(name)
        log = self.data / "logs" / f"{name}.log"
        return Program(name, command.words, self.image.app, log, command.environ)

    def _command(self, name: str, arguments: Sequence[str] = (), **variables: str) -> Command:
        variables = {**self.variables, **variables}
        service = read_services(variables)[name]
        entrypoint = service.get("entrypoint") or self.image.entrypoint
        words = [*entrypoint, *(arguments or service["command"])]
        command = self.image.command(words, service, variables, self.hosts)
        return Command(command.words, {**command.environ, **self._own_tmp(name)})

    def _own_tmp(self, container: str) -> dict[str, str]:
        """Return the variable for the folder that a container has as its /tmp."""
        folder = self.data / "tmp" / container
        folder.mkdir(parents=True, exist_ok=True)
        return {"TMPDIR": str(folder)}

    def _complete(self, command: Command, stdin: str = "") -> Completed:
        return run_program(command.words, cwd=self.image.app, env=command.environ, input=stdin)


@contextmanager
def running_compose(data: Path) -> Iterator[ComposeStack]:
    """Start every service that `docker compose up` starts, in the order of their dependencies."""
    with ExitStack() as stack:
        free = stack.enter_context(reserved_ports(*[None] * (3 + _STORAGE_PORTS)))
        public, broker, database, *ports = free
        variables = {"VALETKEY_S3_PORT": str(public)}
        numbers = zip(_HOSTS, (broker, database, ports[0]), strict=True)
        hosts = {name: f"{HOST}:{port}" for name, port in numbers}
        compose = ComposeStack(read_services(variables), Image(data), variables, hosts, ports, data)
        started = {
            name: service.get("depends_on", {})
            for name, service in compose.services.items()
            if "profiles" not in service
        }
        for name in TopologicalSorter(started).static_order():
            if name in _SERVERS:
                stack.enter_context(_SERVERS[name](compose))
            elif compose.services[name]["restart"] == "no":
                completed = compose.run(name)
                assert completed.returncode == 0, completed.stderr
            else:
                stack.enter_context(running(compose.program(name), lambda _: True, stop_timeout=20))
        for name in WORKERS:
            wait_until(partial(compose.is_healthy, name), 60, f"{name} is healthy")
        yield compose


@contextmanager
def _redis(compose: ComposeStack) -> Iterator[None]:
    host, _, port = compose.hosts["redis:6379"].partition(":")
    program, *words = compose.services["redis"]["command"]
    assert program == "redis-server"
    command = (find_valkey(), *words, "--bind", host, "--port", port)
    folder, log = compose.data / "redis", compose.data / "logs" / "redis.log"

    def is_ready(_: ChildProcess) -> bool:
        with redis.Redis(host, int(port)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    with running(Program("redis", command, folder, log), is_ready):
        yield


@contextmanager
def _postgres(compose: ComposeStack) -> Iterator[None]:
    environ = compose.services["postgres"]["environment"]
    user, name = (sql.Identifier(environ[f"POSTGRES_{word}"]) for word in ("USER", "DB"))
    password = sql.Literal(environ["POSTGRES_PASSWORD"])
    port = int(compose.hosts["postgres:5432"].rpartition(":")[2])
    with running_postgres() as url:
        uri = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(user, password)
            )
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, user))
        with open_port(port, Path(str(make_url(url).query["host"])) / ".s.PGSQL.5432"):
            yield


@contextmanager
def _seaweedfs(compose: ComposeStack) -> Iterator[None]:
    service, folder = compose.services["seaweedfs"], compose.data / "seaweedfs"
    words = [word.replace("=/data", "=.") for word in service["command"]]
    # The last value of a flag counts.
    ports = [
        option
        for option in embedded_servers._seaweedfs_options(list(compose.ports))
        if ".port" in option
    ]
    program = Program(
        "seaweedfs",
        (
            embedded_servers._find_seaweedfs(),
            *words,
            *ports,
            f"-ip.bind={HOST}",
            "-volume.preStopSeconds=0",
        ),
        folder,
        compose.data / "logs" / "seaweedfs.log",
        {**service["environment"], "HOME": str(folder)},
    )
    probe = compose.storage()
    try:
        with running(program, lambda _: accepts_credentials(probe)):
            yield
    finally:
        embedded_servers._remove_sockets(list(compose.ports))


_SERVERS: Mapping[str, Callable[[ComposeStack], AbstractContextManager[None]]] = {
    "redis": _redis,
    "postgres": _postgres,
    "seaweedfs": _seaweedfs,
}
