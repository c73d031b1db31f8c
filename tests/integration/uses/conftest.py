from collections.abc import Iterator

import pytest

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.servers.webhook_receiver import (
    running_receiver,
)
from tests.support.uses.notified import (
    config_with_hook,
)
from tests.support.uses.upload_hooks import UploadHooks


@pytest.fixture
def hooks(
    service: InProcessService, clock: Clock, apply_config: ApplyConfig
) -> Iterator[UploadHooks]:
    hooks = UploadHooks(service, clock)
    with running_receiver(hooks.respond) as receiver:
        apply_config(config_with_hook(receiver.port))
        hooks.receiver = receiver
        yield hooks
