"""What would be decided on a message, and why."""

from collections.abc import Callable
from datetime import datetime

from valetkey.messages import Explanation, Message
from worker.adapters.ledger import Ledger
from worker.core.tenancy import Tenant


class Explainer:
    """Explains decisions; one in each process."""

    def __init__(self, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._now = now

    def explain(self, message: Message, tenant: Tenant) -> Explanation:
        """Hold a message against every rule, and charge and sign nothing. Raises Transient."""
        raise NotImplementedError
