"""The results of imports of access logs."""

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result
from sqlalchemy import Engine, select

from models import Use
from tests.support.uses.access_logs import aws_line
from worker.db.engine import read_transaction

Import = Callable[..., Result]
KEY = "acme/a.pdf"


def numbers(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def lines(grant_id: str, *requests: str) -> bytes:
    return b"".join(aws_line(grant_id, request_id=request) for request in requests)


def recorded(engine: Engine) -> list[Any]:
    with read_transaction(engine) as connection:
        return list(connection.execute(select(Use.event, Use.remote_address, Use.user_agent)))
