import pytest

from tests.support.audit_log.logs import GeneratedLog, generate_log
from tests.support.audit_log.trials import options_of
from tests.support.servers.databases import migrated_file
from worker.proof.verify.verification import VerifyOptions


@pytest.fixture(scope="package")
def log(tmp_path_factory: pytest.TempPathFactory) -> GeneratedLog:
    """A log that tests copy before they change it."""
    return generate_log(migrated_file(tmp_path_factory.mktemp("log") / "log.db"), seed=1)


@pytest.fixture(scope="module")
def options(log: GeneratedLog, tmp_path_factory: pytest.TempPathFactory) -> VerifyOptions:
    return options_of(log, tmp_path_factory.mktemp("checkpoints"))
