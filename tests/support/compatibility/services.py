"""A service whose releases of worker and client differ: its tenants, servers and settings."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.compatibility.releases import Release
from tests.support.servers.webhook_receiver import respond_with, running_receiver
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line
from worker.dev.data_folder import storage_keys
from worker.dev.embedded_servers import create_buckets, running_seaweedfs, running_valkey

BUCKET = "valetkey-demo"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
TRUSTS = ("signed", "unsigned")
_TENANTS = {"signed": "acme", "unsigned": "queueing"}
_KEYS = {name: generate_key(f"{name}/tests") for name in ("acme", "acme-next")}
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
        return urls | {"key": dump_private_key(_KEYS[tenant])}

    def command_environ(self, trust: str, suffix: str = "") -> dict[str, str]:
        """Return the environment variables of the command line of a tenant."""
        return {f"VALETKEY_{name.upper()}": v for name, v in self.client(trust, suffix).items()}

    def prepare(self, release: Release) -> None:
        """Create the tables and store the tenants, by the commands of a release."""
        tenants = self.folder / "tenants.toml"
        tenants.write_text(_tenants_file(self.hook_port))
        release.run(self.settings, ("migrate",), ("apply", "--yes", str(tenants)))

    def running_worker(self, release: Release, *options: str) -> AbstractContextManager[None]:
        """Run a worker of a release until the block ends."""
        return release.running_worker(self.settings, self.log_of(release), *options)

    def log_of(self, release: Release) -> Path:
        """Return the path of the log of a release's worker."""
        return self.folder / f"{release.name}-worker.log"


@contextmanager
def running_servers(folder: Path) -> Iterator[Service]:
    """Run the servers of a service until the block ends."""
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
    tables = [_HEAD]
    for suffix in ("", "-next"):
        signed, unsigned = tenant_of("signed", suffix), tenant_of("unsigned", suffix)
        tables.append(_tenant_table(signed, port, _KEYS[signed]))
        tables.append(_tenant_table(unsigned, port, None))
    return "".join(tables)


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
