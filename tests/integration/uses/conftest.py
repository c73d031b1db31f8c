import pytest

from tests.support.builders.messages import Clock, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.uses.use_service import UseService


@pytest.fixture
def service(service: InProcessService, clock: Clock) -> UseService:
    """The service with acme as its tenant."""
    service = UseService(service.context, clock)
    service.apply(tenant_config())
    return service
