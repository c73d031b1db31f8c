"""The whole stack on this machine: broker, storage, database and workers in one data folder."""

import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from worker.devstack.broker import Valkey, running_valkey
from worker.devstack.folder import locked_folder, storage_keys, write_private
from worker.devstack.processes import ChildProcess, StartFailed
from worker.devstack.s3 import create_buckets
from worker.devstack.service import Commands, run_command, run_workers, service_environment
from worker.devstack.storage import Storage, seaweedfs

_POLL_INTERVAL = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class StackInfo:
    """The addresses, credentials and process ids of a stack: the content of dev.json."""

    broker_url: str
    result_url: str
    database_url: str = field(repr=False)
    s3_endpoint: str
    s3_region: str
    s3_access_key: str
    s3_secret_key: str = field(repr=False)
    tenant: str
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack. `environ` is the service's environment, for running more of its commands."""

    info: StackInfo
    children: tuple[ChildProcess, ...]
    environ: Mapping[str, str] = field(repr=False)

    def watch(self) -> None:
        """Block until a process ends unexpectedly, then raise ProcessEnded."""
        while True:
            for child in self.children:
                child.check_running()
            time.sleep(_POLL_INTERVAL)


@contextmanager
def running_stack(  # noqa: PLR0913 - each has its own default
    data: Path,
    tenants: Path,
    environ: Mapping[str, str],
    *,
    ports: tuple[int | None, int | None] = (None, None),
    commands: Commands = Commands(),  # noqa: B008 - frozen
    on_step: Callable[[str], None] = lambda _: None,
) -> Iterator[Stack]:
    """Run the stack in the data folder, with the tenants of a TOML file, until the block ends.

    `ports` are those of the broker and of S3; None selects a free port. `on_step` is called with a
    description of each step before it starts. While the block runs, producers find the stack's
    addresses in data/dev.json. Raises FolderUnusable or StartFailed.
    """
    data, tenants = data.resolve(), tenants.resolve()
    with ExitStack() as stack:
        lock_fds = (stack.enter_context(locked_folder(data)),)
        info_path = data / "dev.json"
        info_path.unlink(missing_ok=True)  # left by a stack that was killed
        on_step("Starting Valkey")
        broker = stack.enter_context(running_valkey(data, ports[0], lock_fds))
        on_step("Starting SeaweedFS")
        storage = stack.enter_context(seaweedfs(data, storage_keys(data), ports[1], lock_fds))
        service_environ = _service_environ(environ, data, broker, storage)
        on_step("Preparing the database, the tenants and their buckets")
        run_command(commands.migrate, service_environ)
        run_command((*commands.apply, str(tenants)), service_environ)
        tenant, buckets = _read_tenants_file(tenants)
        create_buckets(storage.client(), buckets)
        on_step("Starting the workers")
        workers = stack.enter_context(run_workers(commands, data, service_environ, lock_fds))
        children = {"valkey": broker.child, "seaweedfs": storage.child} | workers
        info = _stack_info(service_environ, storage, tenant, children)
        stack.enter_context(_info_file(info_path, info))
        yield Stack(info, tuple(children.values()), service_environ)


def _service_environ(
    environ: Mapping[str, str], data: Path, broker: Valkey, storage: Storage
) -> dict[str, str]:
    return service_environment(
        environ,
        VALETKEY_BROKER_URL=broker.url(0),
        VALETKEY_RESULT_URL=broker.url(1),
        VALETKEY_DATABASE_URL=environ.get("VALETKEY_DATABASE_URL") or _sqlite_url(data),
        VALETKEY_S3_ENDPOINT=storage.endpoint,
        VALETKEY_DEVELOPMENT="1",
        AWS_ACCESS_KEY_ID=storage.access_key,
        AWS_SECRET_ACCESS_KEY=storage.secret_key,
        AWS_DEFAULT_REGION=storage.region,
    )


def _sqlite_url(data: Path) -> str:
    return f"sqlite:///{data / 'valetkey.db'}"


def _read_tenants_file(tenants: Path) -> tuple[str, set[str]]:
    """Return the file's first tenant, and the buckets without an endpoint of their own."""
    tables = tomllib.loads(tenants.read_text(encoding="utf-8"))
    buckets = tables.get("buckets", {}).values()
    for tenant in tables.get("tenants", {}):
        return tenant, {bucket["bucket"] for bucket in buckets if "endpoint" not in bucket}
    raise StartFailed(f"{tenants} configures no tenant: add at least one [tenants.NAME] table.")


def _stack_info(
    environ: Mapping[str, str], storage: Storage, tenant: str, children: Mapping[str, ChildProcess]
) -> StackInfo:
    return StackInfo(
        broker_url=environ["VALETKEY_BROKER_URL"],
        result_url=environ["VALETKEY_RESULT_URL"],
        database_url=environ["VALETKEY_DATABASE_URL"],
        s3_endpoint=storage.endpoint,
        s3_region=storage.region,
        s3_access_key=storage.access_key,
        s3_secret_key=storage.secret_key,
        tenant=tenant,
        pids={name: child.pid for name, child in children.items()},
    )


@contextmanager
def _info_file(path: Path, info: StackInfo) -> Iterator[None]:
    write_private(path, json.dumps(asdict(info), indent=2) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
