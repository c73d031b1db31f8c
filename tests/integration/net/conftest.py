from ipaddress import ip_address

import pytest

from tests.support.servers.webhook_receiver import FakeResolver
from worker.net.webhook_client import WebhookClient, WebhookFailure

HOST = "hooks.example.com"
LOOPBACK = ip_address("127.0.0.1")


@pytest.fixture
def loopback_client() -> WebhookClient:
    """A client for which every host name resolves to 127.0.0.1."""
    return WebhookClient(development=True, resolve=FakeResolver([LOOPBACK]))


def post_error(client: WebhookClient, url: str, body: bytes = b"{}") -> WebhookFailure:
    """Return the error that a POST raises."""
    with pytest.raises(WebhookFailure) as raised:
        client.post(url, body, {})
    return raised.value
