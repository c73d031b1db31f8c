"""Calls of servers whose failure is the result of a check."""

from collections.abc import Callable
from typing import TypeVar

import click

from valetkey.delivery.causes import describe_cause
from worker.commands.health.checks import Check
from worker.jobs.timeouts import call_with_timeout

Result = TypeVar("Result")

CHECK_TIMEOUT = 3.0
"""The time in seconds that a server has to respond."""


def attempt(check: str, hint: str, call: Callable[[], Result]) -> Result | Check:
    """Return what a call returns, or a failed check if it raises or takes too long."""
    try:
        return call_with_timeout(CHECK_TIMEOUT, call)
    except TimeoutError:
        return Check(check, "fail", f"no response within {CHECK_TIMEOUT:g} s", hint)
    except click.ClickException as error:
        return Check(check, "fail", error.message, hint)
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        # Not the error's text: it may contain a URL, and with it a password.
        return Check(check, "fail", f"out of reach ({describe_cause(error)})", hint)
