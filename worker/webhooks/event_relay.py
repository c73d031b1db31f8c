"""Relays webhooks to the producers that listen, sealed to their tenant's key.

What has links is signed again, by today's policy. An endpoint need not be reachable for that.
"""

import time
from collections.abc import Callable

import structlog
from pydantic_core import to_json

from valetkey.crypto.keys import build_public_key
from valetkey.wire.events import RelayedEvent
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.issue.dispatch import seal
from worker.rules.tenant_config import is_usable_key
from worker.shared.threads import ThreadGroup
from worker.webhooks.listeners import (
    Listener,
    claim_events,
    delete_listener,
    has_new_events,
    read_listeners,
)
from worker.webhooks.outbox import DeliveryLease
from worker.webhooks.webhook_events import render

RELAY_SECONDS = 0.3
"""The pause between two looks for new events, while anybody listens."""

_SIGN_OF_LIFE = "alive"
_SECONDS_OF_LIFE = 2.0  # between two signs to a listener
_MAX_BUSY = 40  # listeners that are relayed to at once

log = structlog.get_logger()


class EventRelay:
    """The relay of one process.

    announce publishes a text on the channel of a task, and returns how many clients received it.
    """

    def __init__(
        self,
        announce: Callable[[str, str], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._announce = announce
        self._monotonic = monotonic
        self._alive_at: dict[str, float] = {}
        # A bucket whose credentials are slow to come delays the listeners of its tenant only.
        self._threads = ThreadGroup(self._relay_to, "event_relay")

    def relay(self, context: Context, run: JobRun) -> tuple[int, int]:
        """Relay the next events to each listener; return how many listeners and events there were.

        Does not wait for long: what takes longer is counted by a later call. Raises Transient.
        """
        run.progress()
        with read_transaction(context.engine) as connection:
            listeners = read_listeners(connection, context.now())
            behind = [each for each in listeners if has_new_events(connection, each)]
        ids = {each.listener_id for each in listeners}
        self._alive_at = {name: at for name, at in self._alive_at.items() if name in ids}
        gone = [each for each in listeners if not self._is_there(each.listener_id)]
        for listener in gone:
            with write_transaction(context.engine) as connection:
                delete_listener(connection, listener)
        busy = {listener.listener_id for listener, _ in self._threads.older_than(0)}
        for listener in behind:
            if listener.listener_id not in busy and self._threads.running < _MAX_BUSY:
                self._threads.start((listener, context))
        finished = self._threads.wait(RELAY_SECONDS)
        return len(listeners) - len(gone), sum(count for _, count in finished)

    def _is_there(self, listener_id: str) -> bool:
        """Send a sign of life if it is time; return false if nobody receives it."""
        now = self._monotonic()
        if now < self._alive_at.get(listener_id, float("-inf")) + _SECONDS_OF_LIFE:
            return True
        self._alive_at[listener_id] = now
        return self._announce(listener_id, _SIGN_OF_LIFE) > 0

    def _relay_to(self, unit: tuple[Listener, Context]) -> int:
        listener, context = unit
        try:
            return self._relay_next(listener, context)
        except Transient as error:
            log.warning("relay_postponed", tenant=listener.tenant_id, problem=str(error))
            return 0

    def _relay_next(self, listener: Listener, context: Context) -> int:
        tenant = context.config.current().tenant_by_id(listener.tenant_id)
        key = None if tenant is None else tenant.keys.get(listener.key)
        with write_transaction(context.engine) as connection:
            if tenant is None or key is None or not is_usable_key(key, context.now()):
                delete_listener(connection, listener)
                return 0
            deliveries = claim_events(connection, listener)
        public_key = build_public_key(key.sign, key.seal)
        for delivery in deliveries:
            content = _render(delivery, context)
            if content is not None:
                token = seal(content, f"{tenant.name}/{key.name}", public_key)
                self._announce(listener.listener_id, token)
        return len(deliveries)


def _render(delivery: DeliveryLease, context: Context) -> bytes | None:
    """Return an event, or None if it cannot be sent. The service reports its number as missed."""
    try:
        webhook = render(delivery, context)
    except (Malformed, Transient) as error:
        log.info("event_not_relayed", delivery=delivery.delivery_number, problem=str(error))
        return None
    return to_json(
        RelayedEvent(
            number=delivery.delivery_number,
            id=webhook.message_id,
            type=delivery.event,
            body=webhook.body.decode(),
        )
    )


class RelayJob:
    """Relays events, and again after a pause as long as anybody listens."""

    def __init__(self) -> None:
        self._relay: EventRelay | None = None

    def __call__(self, context: Context, run: JobRun) -> dict[str, int]:
        """Relay once. Returns counts. Raises Transient."""
        self._relay = self._relay or EventRelay(context.announce)
        listeners, events = self._relay.relay(context, run)
        if listeners:
            run.sleep(RELAY_SECONDS)
            run.is_repeated = True
        return {"events": events}


relay_events = RelayJob()
