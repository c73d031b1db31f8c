"""The data folder of `dev`: its lock, owner-only secrets and state, and the `dev` that runs in it.

The lock admits one stack at a time. Commands of other processes are configured for a running one.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valetkey.dev_files import find_dev_file
from worker.base.private_files import create_private_folder, make_private, mode_of_others
from worker.cli.found_service import FoundService, ServiceNotFound, names_service
from worker.features import resolve
from worker.shared.whole_files import write_private_file

if TYPE_CHECKING:
    from worker.rules.tenant_config import TenantConfig

_POLL_INTERVAL = 0.1  # seconds
_PROBE_WAIT = 0.5  # seconds for which `has_running_stack` may hold the lock, with margin
_ORPHAN_WAIT = 30  # seconds until the servers of a killed stack are stopped, with margin


class FolderUnusable(ServiceNotFound):
    """The data folder cannot be used."""


@dataclass(frozen=True, slots=True)
class StorageKeys:
    """The access key and secret key that the embedded storage accepts."""

    access_key: str
    secret_key: str = field(repr=False)


@contextmanager
def locked_folder(data: Path) -> Iterator[int]:
    """Create the folder if it does not exist, and lock it. Raises FolderUnusable.

    Removes other accounts' access to an existing folder.

    Yields the lock's file descriptor. Servers inherit it, so that the folder stays locked while one
    of them still writes to it, even if this process was killed. After a kill, the next stack waits
    until they are stopped.
    """
    create_private_folder(data)
    _make_folder_private(data)
    lock_fd = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(lock_fd, data)
        yield lock_fd
    finally:
        os.close(lock_fd)


def _make_folder_private(data: Path) -> None:
    if data.stat().st_uid != os.geteuid():
        raise FolderUnusable(
            f"{data} belongs to another account: choose a folder of your own with --data."
        )
    mode = mode_of_others(data)
    if mode is None:
        return
    contents = list(data.iterdir())
    # A folder with other contents may be shared on purpose. In a folder that others can write to,
    # they may have left files for us to trust.
    if contents and not (data / "lock").exists():
        raise FolderUnusable(
            f"Other accounts have access to {data} (mode {mode}), and it holds other files: choose "
            f"an empty folder with --data, or run `chmod 700 {data}`."
        )
    if any(path.lstat().st_uid != os.geteuid() for path in contents):
        raise FolderUnusable(
            f"Other accounts have access to {data} (mode {mode}), and have files in it: choose "
            "another folder with --data."
        )
    make_private(data)


def _lock(lock_fd: int, data: Path) -> None:
    start = time.monotonic()
    while not _try_lock(lock_fd):
        wait = _PROBE_WAIT if _is_alive(_holder(lock_fd)) else _ORPHAN_WAIT
        if time.monotonic() > start + wait:
            raise FolderUnusable(
                f"{data} is in use by another `python -m worker dev`, or by servers that kept "
                "running after such a command was killed. Stop those processes, or choose another "
                "folder with --data. `python -m worker dev status` shows what runs there."
            )
        time.sleep(_POLL_INTERVAL)
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, str(os.getpid()).encode(), 0)


def _try_lock(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock_fd: int) -> int | None:
    """Return the id of the process that locked the folder last, None if it wrote none."""
    text = os.pread(lock_fd, 32, 0)
    return int(text) if text.isdigit() else None


def _is_alive(pid: int | None) -> bool:
    if pid is None:  # a stack that is about to write it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def has_running_stack(data: Path) -> bool:
    """Return whether a stack runs in the data folder, not only servers of one that was killed."""
    try:
        lock_fd = os.open(data / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(lock_fd) and _is_alive(_holder(lock_fd))
    finally:
        os.close(lock_fd)


def storage_keys(data: Path) -> StorageKeys:
    """Return the keys of the folder's storage; generate them at the first start."""
    path = data / "credentials.json"
    if not path.exists():
        keys = StorageKeys(f"DEV{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))
        write_json(path, asdict(keys))
    return StorageKeys(**json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that only its owner can read, atomically."""
    text = json.dumps(content, indent=2) + "\n"
    write_private_file(path, text.encode(), replace=True)


@dataclass(frozen=True, slots=True)
class StackState:
    """The ports of the last start, and the tenants file that was applied last, if known."""

    broker_port: int | None = None
    s3_port: int | None = None
    tenants_file: str | None = None


def load_state(data: Path) -> StackState:
    """Return the state of a data folder, an empty one before the first start.

    Raises FolderUnusable if the file was damaged.
    """
    path = data / "state.json"
    if not path.exists():
        return StackState()
    try:
        state = StackState(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise FolderUnusable(
            f"{path} is damaged: delete it. Only the ports of the last start are lost."
        ) from None
    return state


def save_state(data: Path, state: StackState) -> None:
    """Replace the state of a data folder."""
    write_json(data / "state.json", asdict(state))


# A developer's AWS credentials must never sign for the embedded storage, and Celery prefers its
# CELERY_ variables to explicit settings.
_EXCLUDED_PREFIXES = ("AWS_", "CELERY_")
DATABASE_URL = "VALETKEY_DATABASE_URL"
# They name no server, bucket, file or key.
_INHERITED_SETTINGS = frozenset(
    f"VALETKEY_{name}"
    for name in ("CONCURRENCY", "SWEEP_SECONDS", "LANE_MESSAGES", "LANE_AGE_SECONDS")
)


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a stack inherits from the shell that starts it.

    Leaves out settings that name a database, server, destination or key: the shell may be set up
    for a running service, whose rows a stack must not change.
    """
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("VALETKEY_") or name in _INHERITED_SETTINGS
    }


def service_environment(environ: Mapping[str, str], **settings: str) -> dict[str, str]:
    """Return the service's environment.

    It contains the settings, and the variables of `environ` except those of AWS and Celery, which
    could misconfigure the service.
    """
    inherited = {
        name: value for name, value in environ.items() if not name.startswith(_EXCLUDED_PREFIXES)
    }
    no_aws_config = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return inherited | no_aws_config | settings


@dataclass(frozen=True, slots=True)
class StackAddresses:
    """The addresses of a stack's servers, and the credentials of its storage."""

    broker_url: str
    result_url: str
    database_url: str = field(repr=False)
    s3_endpoint: str
    s3_region: str
    s3_access_key: str
    s3_secret_key: str = field(repr=False)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a service that uses these servers."""
        return service_environment(
            environ,
            VALETKEY_BROKER_URL=self.broker_url,
            VALETKEY_RESULT_URL=self.result_url,
            VALETKEY_DATABASE_URL=self.database_url,
            VALETKEY_S3_ENDPOINT=self.s3_endpoint,
            VALETKEY_DEVELOPMENT="1",
            AWS_ACCESS_KEY_ID=self.s3_access_key,
            AWS_SECRET_ACCESS_KEY=self.s3_secret_key,
            AWS_DEFAULT_REGION=self.s3_region,
        )


@dataclass(frozen=True, slots=True)
class StackInfo(StackAddresses):
    """The addresses, credentials and process ids of a stack: the content of dev.json.

    tenant is the one for which producers make requests if they name none. public_keys are the
    signing keys that the service accepts, by key id.
    """

    tenant: str
    public_keys: Mapping[str, str]
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RunningDev(FoundService):
    """A `dev` that runs now, by its data folder and the content of its dev.json."""

    data: Path
    info: StackInfo = field(repr=False)

    @contextmanager
    def configuring(self, environ: MutableMapping[str, str]) -> Iterator[None]:
        """Let commands find this service in the environment while the block runs."""
        before = dict(environ)
        environ.clear()
        environ.update(self.info.environment(before))
        try:
            yield
        finally:
            environ.clear()
            environ.update(before)

    def adopt(self, config: "TenantConfig", file: Path | None) -> str | None:
        """Create the buckets of a config that was applied, and publish its keys to producers."""
        # Other commands need nothing of what starts servers.
        problem: str | None = resolve("dev.stack:adopt_config")(self, config, file)
        return problem


def find_running_dev(environ: Mapping[str, str], folder: Path) -> RunningDev | None:
    """Return the `dev` that runs in VALETKEY_DATA_DIR, or at or above a folder.

    Returns None if there is none, or if a setting names a service: production is never shadowed.
    Raises FolderUnusable if VALETKEY_DATA_DIR names a folder in which none runs.
    """
    if names_service(environ):
        return None
    path = find_dev_file(environ, folder)
    running = read_running_dev(path.parent) if path else None
    if running is None and environ.get("VALETKEY_DATA_DIR"):
        raise FolderUnusable(
            f"No `python -m worker dev` runs in {environ['VALETKEY_DATA_DIR']}, the "
            "VALETKEY_DATA_DIR: start it, or unset the variable."
        )
    return running


def read_running_dev(data: Path) -> RunningDev | None:
    """Return the `dev` that runs in a data folder, None if none is ready there."""
    try:
        content = json.loads((data / "dev.json").read_text(encoding="utf-8"))
        info = StackInfo(**content)
    except (OSError, ValueError, TypeError):  # also that of a release with other fields
        return None
    return RunningDev(data.resolve(), info) if has_running_stack(data) else None
