import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.webhook_receiver import WebhookReceiver, respond_with, running_receiver
from valetkey import Client
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line
from worker.dev.data_folder import StorageKeys
from worker.dev.embedded_servers import s3_client
from worker.dev.stack import Commands, Stack, running_stack

ROOT = Path(__file__).parents[2]
ACME_KEY = generate_key("acme/tests")
VAULT_KEY = generate_key("vault/tests")  # of a tenant that requires signed requests
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
_COMMANDS = Commands()
TENANTS = """
[tenants.acme.keys]
{}
[tenants.acme.endpoints.hook]
url = "http://127.0.0.1:{port}/hook?token=h00k5ec2e7"
secret = "env:TEST_HOOK_SECRET"
[tenants.vault.keys]
{}
[tenants.vault.endpoints.hook]
url = "http://127.0.0.1:{port}/vault"
secret = "env:TEST_HOOK_SECRET"
[tenants.vault.quotas]
grants = {{ day = {{ limit = 9999, warn = 1 }} }}
[tenants.vault.allow.demo]
prefixes = ["vault/"]
max_size = "1MiB"
kinds = ["download", "upload", "put", "multipart"]
"""


@dataclass(frozen=True)
class Service:
    """The real service on embedded servers, and the receivers of its webhooks and its spans."""

    stack: Stack
    data: Path
    receiver: WebhookReceiver
    collector: WebhookReceiver

    def client(self, tenant: str = "acme") -> Client:
        """Return a client that sends unsigned requests."""
        info = self.stack.info
        return Client(info.broker_url, info.result_url, tenant, requested_by="tests")

    def signing_client(self, key: PrivateKey = ACME_KEY) -> Client:
        """Return a client with a tenant's key, by default that of acme."""
        info = self.stack.info
        return Client(
            info.broker_url, info.result_url, key=dump_private_key(key), requested_by="tests"
        )

    def producer_environ(self, folder: Path, key: PrivateKey = ACME_KEY) -> dict[str, str]:
        """Return the environment of a producer's process; its key is in a file of the folder."""
        (folder / "key").touch(0o600)
        (folder / "key").write_text(dump_private_key(key))
        return {
            "PATH": os.environ["PATH"],
            "VALETKEY_BROKER_URL": self.stack.info.broker_url,
            "VALETKEY_RESULT_URL": self.stack.info.result_url,
            "VALETKEY_KEY_FILE": str(folder / "key"),
        }

    def unused_database_url(self, number: int) -> str:
        """Return the URL of a database of the broker from which no worker consumes."""
        return self.stack.info.broker_url.rpartition("/")[0] + f"/{number}"

    @property
    def logs(self) -> str:
        """The text of all log files of the service's processes."""
        return read_logs(self.data)


def read_logs(data: Path) -> str:
    """Return the text of all log files of a data folder."""
    return "".join(path.read_text() for path in (data / "logs").iterdir())


def storage_client(stack: Stack) -> Any:
    """Return a boto3 client with the keys of the storage."""
    info = stack.info
    keys = StorageKeys(info.s3_access_key, info.s3_secret_key)
    return s3_client(info.s3_endpoint, keys, info.s3_region)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@contextmanager
def running_service(
    folder: Path, more_tenants: str = "", commands: Commands = _COMMANDS, **settings: str
) -> Iterator[Service]:
    """Run the service with its data in a folder; settings are added to the environment."""
    with (
        running_receiver(respond_with(204)) as receiver,
        running_receiver(respond_with(200)) as collector,
    ):
        tenants = folder / "tenants.toml"
        example = (ROOT / "examples" / "tenants.toml").read_text()
        keys = (public_key_line(ACME_KEY), public_key_line(VAULT_KEY))
        tenants.write_text(example + TENANTS.format(*keys, port=receiver.port) + more_tenants)
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}"} | settings
        settings = {"OTEL_BSP_SCHEDULE_DELAY": "100"} | settings  # milliseconds
        environ = dict(os.environ) | {"TEST_HOOK_SECRET": SECRET}
        data = folder / "data"
        with running_stack(data, tenants, environ, settings=settings, commands=commands) as stack:
            yield Service(stack, folder / "data", receiver, collector)
