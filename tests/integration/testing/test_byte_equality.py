"""A fake grant has the bytes of the one that the service signs with the same credentials."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.testing.conftest import FAKES, real_service
from tests.support.builders.messages import Clock, batch_id
from valetkey import Checksum, Client, Encryption, Grant, Item
from valetkey.testing import FakeClient

CRC = Checksum(algorithm="crc32", value="AAAAAA==")
STORED: dict[str, Any] = {
    "content_type": "image/png",
    "acl": "public-read",
    "metadata": {"case": "a b"},
    "tags": {"team": "a+b"},
    "encryption": Encryption(algorithm="AES256"),
}


@pytest.mark.parametrize(
    ("method", "item", "options"),
    [
        ("download_many", {"key": "acme/ü ?.pdf"}, {"filename": "ü.pdf"}),
        ("download_many", {"key": "acme/a", "version_id": "v1"}, {"method": "HEAD"}),
        ("upload_many", {"key": "acme/a", "checksum": CRC}, {"max_size": 9, **STORED}),
        ("upload_many", {"key": "acme/a"}, {"max_size": 9, "success_status": 201}),
        ("put_many", {"key": "acme/a", "size": 12, "checksum": CRC}, STORED),
    ],
)
def test_a_fake_grant_is_byte_for_byte_that_of_the_service(
    broker: str,
    at_clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    item: dict[str, Any],
    options: dict[str, Any],
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    id_, grants = batch_id(), []
    with real_service(broker, tmp_path, at_clock):
        for client in (Client(broker, None, "acme", "test", min_left=0), FakeClient(**FAKES)):
            with client:
                ask = getattr(client, method)
                grants += list(ask("demo", [Item(**item)], batch_id=id_, **options))
    service, fake = grants
    assert isinstance(fake, Grant)
    assert fake == service
