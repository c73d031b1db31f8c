"""Checks, before workers start, that the services can be used that the settings name."""

import click
import structlog

from worker.commands.broker import open_broker, open_results, read_server_facts
from worker.commands.database import open_database
from worker.commands.failures.cause import ServiceUnusable
from worker.db.engine import read_transaction

log = structlog.get_logger()


class ServicesUnusable(click.ClickException):
    """Services that cannot be used, and that time alone does not mend."""


def check_services() -> None:
    """Connect to the database, the broker and the result store.

    Raises ServicesUnusable with the causes that an operator has to mend, such as a wrong password
    or missing tables. Of a service that is away, only a warning is logged: workers wait for it.
    """
    wrong = []
    for check in (_check_database, _check_broker, _check_results):
        try:
            check()
        except ServiceUnusable as error:
            if error.cause.is_away:
                log.warning("service_away", problem=error.message, hint=error.cause.hint)
            else:
                wrong.append(error.format_message())
    if wrong:
        raise ServicesUnusable("no worker was started.\n" + "\n".join(wrong))


def _check_database() -> None:
    with open_database(read_transaction):
        pass


def _check_broker() -> None:
    with open_broker() as client:
        read_server_facts(client)


def _check_results() -> None:
    with open_results() as client:
        read_server_facts(client)
