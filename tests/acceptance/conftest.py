import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers.webhook_receiver import Receiver, answer, receiving
from valetkey import Client
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key, public_key_line
from worker.devstack.stack import Stack, running_stack

ROOT = Path(__file__).parents[2]
KEY = generate_key("acme/tests")
VAULT = generate_key("vault/tests")  # of a tenant that nobody asks for without it
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True)
class Service:
    """The real service on embedded servers, and an endpoint that it calls back."""

    up: Stack
    data: Path
    receiver: Receiver

    def client(self, tenant: str = "acme") -> Client:
        running = self.up.running
        return Client(running.broker_url, running.result_url, tenant, requested_by="tests")

    def signing_client(self, key: PrivateKey = KEY) -> Client:
        """A client that has a tenant's key, acme's where none is given."""
        running = self.up.running
        return Client(
            running.broker_url, running.result_url, key=dump_private_key(key), requested_by="tests"
        )

    @property
    def written(self) -> str:
        """Everything that the service's processes have logged."""
        return "".join(path.read_text() for path in (self.data / "logs").iterdir())


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with receiving(answer(204)) as receiver:
        tenants = folder / "tenants.toml"
        tenants.write_text(
            (ROOT / "examples" / "tenants.toml").read_text()
            + f'[tenants.acme.endpoints.hook]\nurl = "http://127.0.0.1:{receiver.port}/hook"\n'
            + 'secret = "env:TEST_HOOK_SECRET"\n'
            + f"[tenants.acme.keys]\n{public_key_line(KEY)}\n"
            + '[tenants.vault.allow.demo]\nprefixes = ["vault/"]\nmax_size = "1MiB"\n'
            + 'kinds = ["download", "upload", "put", "multipart"]\n'
            + f"[tenants.vault.keys]\n{public_key_line(VAULT)}\n"
            + "[tenants.vault.quotas]\ngrants = { day = { limit = 9999, warn = 1 } }\n"
            + f'[tenants.vault.endpoints.hook]\nurl = "http://127.0.0.1:{receiver.port}/vault"\n'
            + 'secret = "env:TEST_HOOK_SECRET"\n'
        )
        environ = dict(os.environ) | {"TEST_HOOK_SECRET": SECRET}
        with running_stack(folder / "data", tenants, environ) as up:
            yield Service(up, folder / "data", receiver)
