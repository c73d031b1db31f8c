from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.builders import services
from worker.context import Context
from worker.features import NAMES
from worker.issue.dispatch import Response, respond


@cache
def _schema() -> Draft202012Validator:
    from worker.contract.json_schemas import reply_schema  # noqa: PLC0415

    return Draft202012Validator(reply_schema())


@pytest.fixture(autouse=True)
def _every_reply_matches_the_schema_of_the_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    if "contract" not in NAMES:  # in a copy of `make without FEATURE=contract`
        return
    schema = _schema()

    def respond_and_validate(raw: Any, context: Context) -> Response:
        response = respond(raw, context)
        schema.validate(response.values)
        return response

    monkeypatch.setattr(services, "respond", respond_and_validate)
