"""Bundles of signed requests of the tenant acme, and their outcomes."""

from typing import Any

from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import ACME_KEY
from tests.support.crypto.tokens import sign_message


def bundle(*messages: Any, **changes: Any) -> dict[str, Any]:
    """Return a bundle of these messages, with changed header fields."""
    return {"v": 1, "ask": "bundle", "tenant": "acme", "messages": list(messages)} | changes


def issue_all(service: InProcessService, clock: Clock, *messages: Any) -> list[dict[str, Any]]:
    """Return the outcomes of a signed bundle."""
    values = service.issue(sign_message(bundle(*messages), ACME_KEY, clock()))
    assert values["status"] == "bundled"
    outcomes: list[dict[str, Any]] = values["replies"]
    return outcomes


def issue_each(service: InProcessService, clock: Clock, *messages: Any) -> list[dict[str, Any]]:
    """Return the outcomes of the same messages, each signed by itself."""
    return [service.issue(sign_message(message, ACME_KEY, clock())) for message in messages]


def refusal_codes(outcomes: list[dict[str, Any]]) -> list[str | None]:
    """Return the code of each outcome that refuses its whole batch."""
    return [outcome.get("refusal", {}).get("code") for outcome in outcomes]
