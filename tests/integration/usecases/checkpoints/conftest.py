from collections.abc import Callable

import pytest

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.crypto.checkpoints import KEYS
from worker.usecases.checkpoints.sign import sign_checkpoints

Grow = Callable[[], str]


@pytest.fixture
def grow(service: InProcessService, apply_config: ApplyConfig) -> Grow:
    """A function that grants one download, signs the log, and returns the note."""
    apply_config(tenant_config())

    def grow() -> str:
        assert "refusal" not in service.issue(grant_message())
        (result,) = sign_checkpoints(service.context, KEYS)
        assert result.checkpoint is not None
        assert result.is_new
        return result.checkpoint.note

    return grow
