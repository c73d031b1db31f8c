import pytest

from tests.support.audit_log.logs import GeneratedLog, generate_log
from tests.support.servers.databases import migrated_file


@pytest.fixture(scope="package")
def log(tmp_path_factory: pytest.TempPathFactory) -> GeneratedLog:
    """A log that tests copy before they change it."""
    return generate_log(migrated_file(tmp_path_factory.mktemp("log") / "log.db"), seed=1)
