"""Releases of the project as trees, and the processes that import them through PYTHONPATH."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.support.servers.programs import Completed, run_program
from tests.support.servers.webhook_receiver import respond_with, running_receiver
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line
from worker.dev.child_processes import ChildProcess, Program, running
from worker.dev.data_folder import service_environment, storage_keys
from worker.dev.embedded_servers import create_buckets, running_seaweedfs, running_valkey
from worker.shared.worker_states import read_heartbeats

CHECKOUT = Path(__file__).parents[3]
PACKAGES = ("valetkey", "worker", "models", "celeryconfig")
_PYTHONPATH = Path(__file__).parent / "pythonpath"
_RUN_COMMANDS = """
import json, sys
from worker.__main__ import main
for arguments in json.loads(sys.argv[1]):
    main(arguments, standalone_mode=False)
"""
_PRINT_ORIGINS = (
    f"import {', '.join(PACKAGES)}; print({', '.join(f'{p}.__file__' for p in PACKAGES)})"
)


class Producer:
    """A process with a release's clients. See pythonpath/producer for its calls."""

    def __init__(self, release: str, process: "subprocess.Popen[str]") -> None:
        self._release = release
        self._process = process

    def call(self, name: str, client: Mapping[str, Any], **arguments: Any) -> Any:
        """Make a call of a client with these options, and return its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, client, arguments]) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline() or '{"error": "the producer ended"}')
        if "error" in reply:
            raise AssertionError(f"a call of the {self._release} client: {reply['error']}")
        return reply["result"]


@dataclass(frozen=True)
class Release:
    """A tree with the packages of one release, which comes first in the path of its processes."""

    name: str
    folder: Path

    def environ(self, settings: Mapping[str, str]) -> dict[str, str]:
        path = f"{_PYTHONPATH}{os.pathsep}{self.folder}"
        return service_environment(os.environ, **settings, PYTHONPATH=path)

    def origins(self) -> list[str]:
        """Return the files of the project's packages that its processes import."""
        return self._run({}, _PRINT_ORIGINS).split()

    def run(self, settings: Mapping[str, str], *commands: tuple[str, ...]) -> None:
        """Run commands of `python -m worker`, in one process."""
        self._run(settings, _RUN_COMMANDS, json.dumps(commands))

    def verify_log(self, settings: Mapping[str, str]) -> Completed:
        """Verify the audit log, with the command of this release."""
        command = [sys.executable, "-m", "worker", "audit", "verify"]
        return run_program(command, cwd=self.folder, env=self.environ(settings))

    def _run(self, settings: Mapping[str, str], program: str, *arguments: str) -> str:
        command = [sys.executable, "-c", program, *arguments]
        environ = self.environ(settings)
        return run_program(command, cwd=self.folder, env=environ, check=True).stdout

    @contextmanager
    def running_worker(
        self, settings: Mapping[str, str], log: Path, *options: str, stops: bool = False
    ) -> Iterator[None]:
        """Run `python -m worker run` until the block ends, and kill it: its stop takes seconds.

        If `stops`, it is sent SIGTERM, and has 20 seconds to end. Its log is appended to a file.
        """
        command = (sys.executable, "-m", "worker", "run", *options)
        program = Program(f"{self.name} worker", command, self.folder, log, self.environ(settings))
        roles = 1 if "--only" in options else 2

        def is_ready(child: ChildProcess) -> bool:
            with redis.Redis.from_url(settings["VALETKEY_RESULT_URL"]) as client:
                supervisors = [heartbeat.supervisor for heartbeat in read_heartbeats(client)]
            return supervisors.count(child.pid) == roles

        with running(program, is_ready, ready_timeout=60, stop_timeout=20) as worker:
            yield
            if not stops:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)

    @contextmanager
    def running_producer(self, folder: Path) -> Iterator[Producer]:
        """Run a producer until the block ends; its log is in the folder."""
        with (
            (folder / f"{self.name}-producer.log").open("a") as log,
            self._start({"HOME": str(folder)}, folder, "-m", "producer", stderr=log) as process,
        ):
            try:
                yield Producer(self.name, process)
            finally:
                process.kill()

    def start_command(
        self, folder: Path, settings: Mapping[str, str], *arguments: str
    ) -> "subprocess.Popen[str]":
        """Start a command of valetkey in a process of its own, with pipes for stdout and stderr."""
        program = "from valetkey.cli.main import main; main()"
        return self._start(settings, folder, "-c", program, *arguments, stderr=subprocess.PIPE)

    def _start(
        self, settings: Mapping[str, str], folder: Path, *words: str, stderr: Any
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-P", *words],
            cwd=folder,
            env=self.environ(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )


BUCKET = "valetkey-demo"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
TRUSTS = ("signed", "unsigned")
_TENANTS = {"signed": "acme", "unsigned": "queueing"}
KEYS = {name: generate_key(f"{name}/tests") for name in ("acme", "acme-next")}
_HEAD = f"""
[buckets.demo]
bucket = "{BUCKET}"
region = "us-east-1"
addressing = "path"
"""


def tenant_of(trust: str, suffix: str = "") -> str:
    """Return the tenant that signs its messages, or the one that trusts the queue."""
    return _TENANTS[trust] + suffix


@dataclass(frozen=True)
class Service:
    """A database and a pair of Redis databases, for workers of any release."""

    folder: Path
    settings: Mapping[str, str]
    hook_port: int

    def client(self, trust: str, suffix: str = "") -> dict[str, Any]:
        """Return the arguments of a client of a tenant."""
        tenant = tenant_of(trust, suffix)
        urls = {
            "broker_url": self.settings["VALETKEY_BROKER_URL"],
            "result_url": self.settings["VALETKEY_RESULT_URL"],
        }
        if trust == "unsigned":
            return urls | {"tenant": tenant}
        return urls | {"key": dump_private_key(KEYS[tenant])}

    def command_environ(self, trust: str, suffix: str = "") -> dict[str, str]:
        """Return the environment variables of the command line of a tenant."""
        return {f"VALETKEY_{name.upper()}": v for name, v in self.client(trust, suffix).items()}

    def prepare(self, release: Release) -> None:
        """Create the tables and store the tenants, by the commands of a release."""
        tenants = self.folder / "tenants.toml"
        tenants.write_text(_tenants_file(self.hook_port))
        release.run(self.settings, ("migrate",), ("apply", "--yes", str(tenants)))

    def running_worker(
        self, release: Release, *options: str, stops: bool = False
    ) -> AbstractContextManager[None]:
        return release.running_worker(self.settings, self.log_of(release), *options, stops=stops)

    def log_of(self, release: Release) -> Path:
        return self.folder / f"{release.name}-worker.log"


@contextmanager
def running_servers(folder: Path) -> Iterator[Service]:
    with (
        running_valkey(folder) as valkey,
        running_seaweedfs(folder, storage_keys(folder)) as storage,
        running_receiver(respond_with(204)) as receiver,
        closing(storage.client()) as s3,
    ):
        create_buckets(s3, {BUCKET})
        settings = {
            "VALETKEY_BROKER_URL": valkey.url(0),
            "VALETKEY_RESULT_URL": valkey.url(1),
            "VALETKEY_DATABASE_URL": f"sqlite:///{folder / 'valetkey.db'}",
            "VALETKEY_S3_ENDPOINT": storage.endpoint,
            "VALETKEY_DEVELOPMENT": "1",
            "VALETKEY_SWEEP_SECONDS": "0.5",
            "AWS_ACCESS_KEY_ID": storage.access_key,
            "AWS_SECRET_ACCESS_KEY": storage.secret_key,
            "AWS_DEFAULT_REGION": storage.region,
            "TEST_HOOK_SECRET": SECRET,
        }
        yield Service(folder, settings, receiver.port)


def _tenants_file(port: int) -> str:
    names = [tenant_of(trust, suffix) for suffix in ("", "-next") for trust in TRUSTS]
    return _HEAD + "".join(_tenant_table(name, port, KEYS.get(name)) for name in names)


def _tenant_table(name: str, port: int, key: PrivateKey | None) -> str:
    trust = f"\n[tenants.{name}.keys]\n{public_key_line(key)}" if key else ""
    return f"""
[tenants.{name}]
trust = "{"keys" if key else "queue"}"
[tenants.{name}.allow.demo]
prefixes = ["{name}/"]
kinds = ["download", "upload", "put", "multipart"]
max_size = "1GiB"
content_types = ["text/plain", "application/octet-stream"]
[tenants.{name}.quotas]
grants = {{ month = 1_000_000 }}
upload_bytes = {{ month = "1TiB" }}
[tenants.{name}.endpoints.hook]
url = "http://127.0.0.1:{port}/{name}"
secret = "env:TEST_HOOK_SECRET"
{trust}
"""
