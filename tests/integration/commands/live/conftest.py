from pathlib import Path

import pytest

from tests.support.cli.live_doctor import SECRET_KEY, UseStorage, store_profiles
from worker.core.tenants.config import Bucket
from worker.usecases.live_checks import link_checks


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use expired grants at once: these storages do not look at a grant's end."""
    monkeypatch.setattr(link_checks, "EXPIRED_SECONDS", -10)


@pytest.fixture
def use_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseStorage:
    """A function that stores the profiles `demo` and `other` for the storage at a URL."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)

    def use(url: str | None) -> None:
        demo, other = (
            Bucket(name, "valetkey-demo", "us-east-1", "path", url) for name in ("demo", "other")
        )
        monkeypatch.setenv("VALETKEY_DATABASE_URL", store_profiles(tmp_path, demo, other))

    return use
