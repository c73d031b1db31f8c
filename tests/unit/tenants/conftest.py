from pathlib import Path

import pytest

from tests.support.builders.tenants_files import TenantsFile


@pytest.fixture
def tenants_file(tmp_path: Path) -> TenantsFile:
    return TenantsFile(tmp_path)
