"""The plugin of pytest that comes with valetkey. It loads the client only for tests that use it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from valetkey.testing import FakeClient


@pytest.fixture
def valetkey_client() -> Iterator["FakeClient"]:
    """A valetkey.testing.FakeClient, which grants everything until the test says otherwise."""
    from valetkey.testing import FakeClient  # noqa: PLC0415 - it loads Celery

    client = FakeClient()
    yield client
    client.close()
