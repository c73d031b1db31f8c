"""The whole stack on this machine: broker, storage, database and workers in one data folder."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from worker.core.tenants.config import TenantConfig
from worker.db.engine import sqlite_path
from worker.devstack.broker import Valkey, running_valkey
from worker.devstack.folder import locked_folder, storage_keys, write_private
from worker.devstack.ports import is_free
from worker.devstack.processes import ChildProcess
from worker.devstack.s3 import create_buckets
from worker.devstack.service import Commands, run_workers
from worker.devstack.stack_info import StackInfo, service_environment
from worker.devstack.state import StackState, load_state, save_state
from worker.devstack.storage import Storage, seaweedfs
from worker.devstack.tenants import accepted_keys, local_buckets, prepare_tenants

_POLL_INTERVAL = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack. `environ` is the service's environment, for running more of its commands.

    `notes` has lines for the operator: ports that changed, and what applying a file changed.
    """

    info: StackInfo
    config: TenantConfig
    state: StackState
    notes: Sequence[str]
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
    tenants: Path | None,
    environ: Mapping[str, str],
    *,
    ports: tuple[int | None, int | None] = (None, None),
    commands: Commands = Commands(),  # noqa: B008 - frozen
    on_step: Callable[[str], None] = lambda _: None,
) -> Iterator[Stack]:
    """Run the stack in the data folder, with the tenants of a TOML file, until the block ends.

    Without a file the stored config stays, or is the example at the first start. `ports` are those
    of the broker and of S3; None selects the port of the last start, or a free one. `on_step` is
    called with a description of each step before it starts. While the block runs, producers find
    the stack's addresses in data/dev.json. Raises FolderUnusable or StartFailed.
    """
    data, tenants = data.resolve(), tenants.resolve() if tenants else None
    with ExitStack() as stack:
        lock_fds = (stack.enter_context(locked_folder(data)),)
        info_path = data / "dev.json"
        info_path.unlink(missing_ok=True)  # left by a stack that was killed
        last = load_state(data)
        on_step("Starting Valkey")
        broker_port, s3_port = _usable_ports(ports, last)
        broker = stack.enter_context(running_valkey(data, broker_port, lock_fds))
        on_step("Starting SeaweedFS")
        storage = stack.enter_context(seaweedfs(data, storage_keys(data), s3_port, lock_fds))
        service_environ = _service_environ(environ, data, broker, storage)
        on_step("Preparing the database, the tenants and their buckets")
        config, applied, notes = prepare_tenants(commands, tenants, service_environ)
        create_buckets(storage.client(), local_buckets(config))
        state = StackState(broker.port, storage.port, applied or last.tenants_file)
        save_state(data, state)
        on_step("Starting the workers")
        workers = stack.enter_context(run_workers(commands, data, service_environ, lock_fds))
        children = {"valkey": broker.child, "seaweedfs": storage.child} | workers
        info = _stack_info(service_environ, storage, config, children)
        stack.enter_context(_info_file(info_path, info))
        notes = [*_port_notes(last, state, ports), *notes]
        yield Stack(info, config, state, notes, tuple(children.values()), service_environ)


def _usable_ports(
    requested: tuple[int | None, int | None], last: StackState
) -> Iterator[int | None]:
    """Yield the requested ports, or those of the last start; None if they are taken or unknown."""
    for port, before in zip(requested, (last.broker_port, last.s3_port), strict=True):
        is_usable = port is None and before is not None and is_free(before)
        yield before if is_usable else port


def _port_notes(
    last: StackState, state: StackState, requested: tuple[int | None, int | None]
) -> Iterator[str]:
    ports = (
        ("broker", last.broker_port, state.broker_port),
        ("storage", last.s3_port, state.s3_port),
    )
    for (name, before, after), port in zip(ports, requested, strict=True):
        if port is None and before not in {None, after}:
            yield (
                f"Another process has taken port {before}: the {name} now has port {after}. "
                "Producers with a URL of the old port, and links that were issued, do not reach it."
            )


def _service_environ(
    environ: Mapping[str, str], data: Path, broker: Valkey, storage: Storage
) -> dict[str, str]:
    return service_environment(
        environ,
        VALETKEY_BROKER_URL=broker.url(0),
        VALETKEY_RESULT_URL=broker.url(1),
        VALETKEY_DATABASE_URL=_database_url(environ, data),
        VALETKEY_S3_ENDPOINT=storage.endpoint,
        VALETKEY_DEVELOPMENT="1",
        AWS_ACCESS_KEY_ID=storage.access_key,
        AWS_SECRET_ACCESS_KEY=storage.secret_key,
        AWS_DEFAULT_REGION=storage.region,
    )


def _database_url(environ: Mapping[str, str], data: Path) -> str:
    url = environ.get("VALETKEY_DATABASE_URL") or f"sqlite:///{data / 'valetkey.db'}"
    path = sqlite_path(url)  # absolute, because commands run in different folders
    return url if path is None or path.is_absolute() else f"sqlite:///{path.resolve()}"


def _stack_info(
    environ: Mapping[str, str],
    storage: Storage,
    config: TenantConfig,
    children: Mapping[str, ChildProcess],
) -> StackInfo:
    return StackInfo(
        broker_url=environ["VALETKEY_BROKER_URL"],
        result_url=environ["VALETKEY_RESULT_URL"],
        database_url=environ["VALETKEY_DATABASE_URL"],
        s3_endpoint=storage.endpoint,
        s3_region=storage.region,
        s3_access_key=storage.access_key,
        s3_secret_key=storage.secret_key,
        tenant=next(iter(config.tenants)),
        public_keys=accepted_keys(config),
        pids={name: child.pid for name, child in children.items()},
    )


@contextmanager
def _info_file(path: Path, info: StackInfo) -> Iterator[None]:
    write_private(path, json.dumps(asdict(info), indent=2) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
