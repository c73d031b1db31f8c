from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3.chromium import Tab
from tests.support.s3.stores import BUCKET, SERVERS, Store

FILE = b"\x89PNG a picture\r\n\0"


def odd_key(key: str) -> str:
    return f"{key} \"ü\" & 'Ω' <b>=1%41${{x}}.png"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / 'ein "Bild"; Nr. 1,5 größer.png'
    path.write_bytes(FILE)
    return path


@pytest.fixture(scope="session")
def cors(stores: dict[str, Store]) -> None:
    rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["POST", "PUT"], "AllowedHeaders": ["*"]}
    for store in stores.values():
        store.client.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [rule]})


@pytest.fixture
def fresh_tab(tab: Tab) -> Iterator[None]:
    yield
    tab.set_scripting(enabled=True)
    tab.emulate("light")
    tab.visit("data:text/html,<p>done")


@pytest.fixture
def signing_store(stores: dict[str, Store]) -> Iterator[Store]:
    """One server, for pages that store something or send nothing."""
    store = stores[SERVERS[0]]
    yield store
    store.delete_objects()
