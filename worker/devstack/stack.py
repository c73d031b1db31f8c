"""Everything on this machine: a broker, a storage, a database and a worker, under one folder."""

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

_PAUSE = 0.2  # seconds between two looks


@dataclass(frozen=True, slots=True)
class StackInfo:
    """Where everything is: the content of dev.json."""

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
    """A stack that is up; environ is what the service sees, for more of its commands."""

    running: StackInfo
    children: tuple[ChildProcess, ...]
    environ: Mapping[str, str] = field(repr=False)

    def watch(self) -> None:
        """Wait for ever. Raises Ended when a part ends by itself."""
        while True:
            for child in self.children:
                child.must_run()
            time.sleep(_PAUSE)


@contextmanager
def running_stack(  # noqa: PLR0913 - each has its own default
    data: Path,
    tenants: Path,
    environ: Mapping[str, str],
    *,
    ports: tuple[int | None, int | None] = (None, None),
    commands: Commands = Commands(),  # noqa: B008 - frozen
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Stack]:
    """Run everything under the data folder, with the tenants of a file, until the block ends.

    Ports are the broker's and S3's, free ones for None. Say is told what comes next. While the
    block lasts, data/dev.json tells producers where everything is. Raises InUse, NotStarted.
    """
    data, tenants = data.resolve(), tenants.resolve()
    with ExitStack() as opened:
        lock = (opened.enter_context(locked_folder(data)),)
        announcement = data / "dev.json"
        announcement.unlink(missing_ok=True)  # of a stack that was killed
        say("Starting Valkey")
        broker = opened.enter_context(running_valkey(data, ports[0], lock))
        say("Starting SeaweedFS")
        storage = opened.enter_context(seaweedfs(data, storage_keys(data), ports[1], lock))
        seen = _environment(environ, data, broker, storage)
        say("Preparing the database, the tenants and their buckets")
        run_command(commands.migrate, seen)
        run_command((*commands.apply, str(tenants)), seen)
        tenant, buckets = _declared(tenants)
        create_buckets(storage.client(), buckets)
        say("Starting the workers")
        service = opened.enter_context(run_workers(commands, data, seen, lock))
        children = {"valkey": broker.child, "seaweedfs": storage.child} | service
        running = _running(seen, storage, tenant, children)
        opened.enter_context(_announced(announcement, running))
        yield Stack(running, tuple(children.values()), seen)


def _environment(
    environ: Mapping[str, str], data: Path, broker: Valkey, storage: Storage
) -> dict[str, str]:
    return service_environment(
        environ,
        VALETKEY_BROKER_URL=broker.url(0),
        VALETKEY_RESULT_URL=broker.url(1),
        VALETKEY_DATABASE_URL=environ.get("VALETKEY_DATABASE_URL") or _sqlite(data),
        VALETKEY_S3_ENDPOINT=storage.endpoint,
        VALETKEY_DEVELOPMENT="1",
        AWS_ACCESS_KEY_ID=storage.access_key,
        AWS_SECRET_ACCESS_KEY=storage.secret_key,
        AWS_DEFAULT_REGION=storage.region,
    )


def _sqlite(data: Path) -> str:
    return f"sqlite:///{data / 'valetkey.db'}"


def _declared(tenants: Path) -> tuple[str, set[str]]:
    """The first tenant of the file, and the buckets that are not somebody else's."""
    tables = tomllib.loads(tenants.read_text(encoding="utf-8"))
    buckets = tables.get("buckets", {}).values()
    for tenant in tables.get("tenants", {}):
        return tenant, {bucket["bucket"] for bucket in buckets if "endpoint" not in bucket}
    raise StartFailed(f"{tenants} declares no tenant.")


def _running(
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
def _announced(path: Path, running: StackInfo) -> Iterator[None]:
    write_private(path, json.dumps(asdict(running), indent=2) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
