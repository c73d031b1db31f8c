import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers.webhook_receiver import WebhookReceiver, respond_with, running_receiver
from valetkey import Client
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line
from worker.dev.stack import Stack, running_stack

ROOT = Path(__file__).parents[2]
ACME_KEY = generate_key("acme/tests")
VAULT_KEY = generate_key("vault/tests")  # of a tenant that requires signed requests
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True)
class Service:
    """The real service on embedded servers, and the receiver of its webhooks."""

    stack: Stack
    data: Path
    receiver: WebhookReceiver

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

    @property
    def logs(self) -> str:
        """The text of all log files of the service's processes."""
        return "".join(path.read_text() for path in (self.data / "logs").iterdir())


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@contextmanager
def running_service(folder: Path, **settings: str) -> Iterator[Service]:
    """Run the service with its data in a folder; settings are added to the environment."""
    with running_receiver(respond_with(204)) as receiver:
        tenants = folder / "tenants.toml"
        tenants.write_text(
            (ROOT / "examples" / "tenants.toml").read_text()
            + f'[tenants.acme.endpoints.hook]\nurl = "http://127.0.0.1:{receiver.port}/hook"\n'
            + 'secret = "env:TEST_HOOK_SECRET"\n'
            + f"[tenants.acme.keys]\n{public_key_line(ACME_KEY)}\n"
            + '[tenants.vault.allow.demo]\nprefixes = ["vault/"]\nmax_size = "1MiB"\n'
            + 'kinds = ["download", "upload", "put", "multipart"]\n'
            + f"[tenants.vault.keys]\n{public_key_line(VAULT_KEY)}\n"
            + "[tenants.vault.quotas]\ngrants = { day = { limit = 9999, warn = 1 } }\n"
            + f'[tenants.vault.endpoints.hook]\nurl = "http://127.0.0.1:{receiver.port}/vault"\n'
            + 'secret = "env:TEST_HOOK_SECRET"\n'
        )
        environ = dict(os.environ) | {"TEST_HOOK_SECRET": SECRET} | settings
        with running_stack(folder / "data", tenants, environ) as stack:
            yield Service(stack, folder / "data", receiver)
