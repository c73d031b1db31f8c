from pathlib import Path

import pytest

from tests.acceptance.conftest import Service
from tests.support.servers.guide_sandbox import GuideSandbox, create_guide_sandbox


@pytest.fixture
def sandbox(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GuideSandbox:
    """The programs of docs/producers.md, in a new folder."""
    return create_guide_sandbox(service, tmp_path, monkeypatch)
