from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.builders import services
from worker.context import Context
from worker.contract.json_schemas import reply_schema
from worker.issue.dispatch import Response, respond

_SCHEMA = Draft202012Validator(reply_schema())


@pytest.fixture(autouse=True)
def _every_reply_matches_the_schema_of_the_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond_and_validate(raw: Any, context: Context) -> Response:
        response = respond(raw, context)
        _SCHEMA.validate(response.values)
        return response

    monkeypatch.setattr(services, "respond", respond_and_validate)
