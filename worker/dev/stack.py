"""The whole stack in one data folder: broker, storage, database, tenants and workers."""

import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import redis

import worker
from worker import clock
from worker.base.database_engine import create_database_engine, read_transaction, sqlite_path
from worker.dev.child_processes import (
    PRIVATE_UMASK,
    ChildProcess,
    Program,
    StartFailed,
    is_free_port,
    running,
)
from worker.dev.data_folder import (
    DATABASE_URL,
    RunningDev,
    StackAddresses,
    StackInfo,
    StackState,
    StorageKeys,
    load_state,
    locked_folder,
    save_state,
    storage_keys,
    without_settings,
    write_json,
)
from worker.dev.embedded_servers import (
    Storage,
    Valkey,
    create_buckets,
    running_seaweedfs,
    running_valkey,
    s3_client,
)
from worker.ledger.tenant_rows import load_config
from worker.rules.tenant_config import TenantConfig, is_usable_key
from worker.shared.worker_states import read_heartbeats

CHECKOUT = Path(worker.__file__).parents[1]
_PYTHON = (sys.executable, "-m")
_DATABASE_FILE = "valetkey.db"


def workers_are_alive(result_url: str, supervisors: Collection[int]) -> bool:
    """Return whether each of these `worker run` processes has a worker with a fresh heartbeat."""
    with redis.Redis.from_url(result_url) as client:
        alive = {heartbeat.supervisor for heartbeat in read_heartbeats(client)}
    return alive.issuperset(supervisors)


@dataclass(frozen=True, slots=True)
class Commands:
    """The service's commands that a stack runs, and the check that its workers are ready."""

    migrate: tuple[str, ...] = (*_PYTHON, "worker", "migrate")
    apply: tuple[str, ...] = (*_PYTHON, "worker", "apply", "--yes")
    worker: tuple[str, ...] = (*_PYTHON, "worker", "run", "--only", "issue")
    beat: tuple[str, ...] = (*_PYTHON, "worker", "run", "--only", "upkeep")
    are_workers_ready: Callable[[str, Collection[int]], bool] = workers_are_alive


def run_command(command: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Run one of the service's commands until it exits, and return what it printed.

    Raises StartFailed with its output.
    """
    completed = subprocess.run(
        command,
        cwd=CHECKOUT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        umask=PRIVATE_UMASK,
    )
    if completed.returncode:
        raise StartFailed(f"`{' '.join(command)}` failed:\n{completed.stdout.strip()}")
    return completed.stdout.strip()


@contextmanager
def run_workers(
    commands: Commands, data: Path, environ: Mapping[str, str], inherited_fds: tuple[int, ...]
) -> Iterator[dict[str, ChildProcess]]:
    """Run one worker that responds to requests, and one with beat that sends webhooks.

    At the end of the block, running tasks may finish within Celery's soft shutdown timeout.
    """

    def program(name: str, command: tuple[str, ...]) -> Program:
        return Program(
            name,
            command,
            folder=CHECKOUT,
            log=data / "logs" / f"{name}.log",
            environ=environ,
            inherited_fds=inherited_fds,
        )

    def is_ready(worker: ChildProcess) -> bool:
        beat.check_running()
        return commands.are_workers_ready(environ["VALETKEY_RESULT_URL"], {worker.pid, beat.pid})

    with (
        running(program("beat", commands.beat), lambda _: True, stop_timeout=20) as beat,
        running(program("worker", commands.worker), is_ready, stop_timeout=20) as worker,
    ):
        yield {"worker": worker, "beat": beat}


EXAMPLE_TENANTS_FILE = CHECKOUT / "examples" / "tenants.toml"


def prepare_tenants(
    commands: Commands, tenants: Path | None, environ: Mapping[str, str]
) -> tuple[TenantConfig, str | None, list[str]]:
    """Migrate the database and apply a tenants file, or without one the example if it is empty.

    A config that is already stored stays: whoever applied it last decided so. Returns the config,
    the file that was applied (None if none was), and lines about what it changed. Raises
    StartFailed.
    """
    run_command(commands.migrate, environ)
    before = read_config(environ[DATABASE_URL])
    if tenants is None and before.tenants:
        return before, None, []
    path = tenants or EXAMPLE_TENANTS_FILE
    output = run_command((*commands.apply, str(path)), environ)
    config = read_config(environ[DATABASE_URL])
    if not config.tenants:
        raise StartFailed(f"{path} configures no tenant: add at least one [tenants.NAME] table.")
    # At the first start everything is new, and the file says it better than the difference.
    lines = [f"  {line}" for line in output.splitlines() if before.tenants or "WARNING" in line]
    return config, str(path), [f"Applied {path}:", *lines]


def read_config(database_url: str) -> TenantConfig:
    """Read the config that is in force from the database."""
    engine = create_database_engine(database_url)
    try:
        with read_transaction(engine) as connection:
            return load_config(connection)
    finally:
        engine.dispose()


def local_buckets(config: TenantConfig) -> set[str]:
    """Return the buckets that the stack's own storage must have."""
    return {bucket.bucket for bucket in config.buckets.values() if bucket.endpoint is None}


def accepted_keys(config: TenantConfig) -> dict[str, str]:
    """Return the public signing keys that the service accepts, by key id."""
    now = clock.now()
    return {
        f"{tenant.name}/{key.name}": key.sign
        for tenant in config.tenants.values()
        for key in tenant.keys.values()
        if is_usable_key(key, now)
    }


def adopt_config(running: RunningDev, config: TenantConfig, file: Path | None) -> str | None:
    """Create the buckets of a config that was applied, and publish its keys to producers.

    Without a file, the state keeps the one that was applied last. Returns a problem, or None.
    """
    info = running.info
    keys = StorageKeys(info.s3_access_key, info.s3_secret_key)
    try:
        create_buckets(s3_client(info.s3_endpoint, keys, info.s3_region), local_buckets(config))
    except StartFailed as error:
        return str(error)
    tenant = info.tenant if info.tenant in config.tenants else next(iter(config.tenants), "")
    info = replace(info, tenant=tenant, public_keys=accepted_keys(config))
    write_json(running.data / "dev.json", asdict(info))
    if file is not None:
        state = load_state(running.data)
        save_state(running.data, replace(state, tenants_file=str(file.resolve())))
    return None


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
    settings: Mapping[str, str] = MappingProxyType({}),
    ports: tuple[int | None, int | None] = (None, None),
    commands: Commands = Commands(),
    on_step: Callable[[str], None] = lambda _: None,
) -> Iterator[Stack]:
    """Run the stack in the data folder, with the tenants of a TOML file, until the block ends.

    Without a file the stored config stays, or is the example at the first start. `settings` are the
    service's, by variable; those in `environ` are ignored. The database is SQLite in the data
    folder unless `settings` has another. `ports` are those of the broker and of S3; None selects
    that of the last start, or a free one. `on_step` is called with each step before it starts.
    While the block runs, producers find the addresses in data/dev.json. Raises FolderUnusable or
    StartFailed.
    """
    data, tenants = data.resolve(), tenants.resolve() if tenants else None
    with ExitStack() as stack:
        lock_fds = (stack.enter_context(locked_folder(data)),)
        (info_path := data / "dev.json").unlink(missing_ok=True)  # left by a stack that was killed
        last = load_state(data)
        broker, storage = _start_servers(stack, data, _usable_ports(ports, last), lock_fds, on_step)
        addresses = _addresses(settings, data, broker, storage)
        service_environ = addresses.environment({**without_settings(environ), **settings})
        on_step("Preparing the database, the tenants and their buckets")
        if DATABASE_URL not in settings:  # of its own database, it may replace every tenant
            commands = replace(commands, apply=(*commands.apply, "--replace-all", _DATABASE_FILE))
        config, applied, notes = prepare_tenants(commands, tenants, service_environ)
        create_buckets(storage.client(), local_buckets(config))
        state = StackState(broker.port, storage.port, applied or last.tenants_file)
        save_state(data, state)
        on_step("Starting the workers")
        workers = stack.enter_context(run_workers(commands, data, service_environ, lock_fds))
        children = {"valkey": broker.child, "seaweedfs": storage.child} | workers
        info = stack.enter_context(_info_file(info_path, addresses, config, children))
        notes = [*_port_notes(last, state, ports), *notes]
        yield Stack(info, config, state, notes, tuple(children.values()), service_environ)


def _start_servers(
    stack: ExitStack,
    data: Path,
    ports: Iterable[int | None],
    lock_fds: tuple[int, ...],
    on_step: Callable[[str], None],
) -> tuple[Valkey, Storage]:
    broker_port, s3_port = ports
    on_step("Starting Valkey")
    broker = stack.enter_context(running_valkey(data, broker_port, lock_fds))
    on_step("Starting SeaweedFS")
    keys = storage_keys(data)
    storage = stack.enter_context(running_seaweedfs(data, keys, s3_port, lock_fds))
    return broker, storage


def _usable_ports(
    requested: tuple[int | None, int | None], last: StackState
) -> Iterator[int | None]:
    """Yield the requested ports, or those of the last start; None if they are taken or unknown."""
    for port, before in zip(requested, (last.broker_port, last.s3_port), strict=True):
        is_usable = port is None and before is not None and is_free_port(before)
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


def _addresses(
    settings: Mapping[str, str], data: Path, broker: Valkey, storage: Storage
) -> StackAddresses:
    database_url = settings.get(DATABASE_URL) or f"sqlite:///{data / _DATABASE_FILE}"
    path = sqlite_path(database_url)
    if path is not None and not path.is_absolute():  # commands run in different folders
        database_url = f"sqlite:///{path.resolve()}"
    return StackAddresses(
        broker_url=broker.url(0),
        result_url=broker.url(1),
        database_url=database_url,
        s3_endpoint=storage.endpoint,
        s3_region=storage.region,
        s3_access_key=storage.access_key,
        s3_secret_key=storage.secret_key,
    )


@contextmanager
def _info_file(
    path: Path,
    addresses: StackAddresses,
    config: TenantConfig,
    children: Mapping[str, ChildProcess],
) -> Iterator[StackInfo]:
    """Write the file by which producers find the stack, and remove it after the block."""
    info = StackInfo(
        **asdict(addresses),
        tenant=next(iter(config.tenants)),
        public_keys=accepted_keys(config),
        pids={name: child.pid for name, child in children.items()},
    )
    write_json(path, asdict(info))
    try:
        yield info
    finally:
        path.unlink(missing_ok=True)
