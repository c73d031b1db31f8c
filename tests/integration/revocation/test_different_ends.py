"""A revocation of grants that expire at different times."""

from typing import Any

from sqlalchemy import Engine, select

from models import Denial
from tests.integration.revocation.conftest import (
    KEY,
    OTHER_KEY,
    Revoke,
    issue,
    statements,
    status,
)
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from valetkey.units import format_utc
from worker.db.engine import read_transaction
from worker.usecases.upkeep.denials import keep_denials

TERMS = {"kind": "download", "bucket": "demo"}


def test_a_statement_denies_the_last_grant_until_it_expires_and_is_removed_then(
    run: Revoke,
    service: InProcessService,
    clock: Clock,
    client: Any,
    bucket: str,
    engine: Engine,
) -> None:
    [last] = issue(service, KEY, grant=TERMS | {"expires_in": 900})
    issue(service, OTHER_KEY, grant=TERMS | {"expires_in": 300})
    assert run("--tenant", "acme", "--yes").exit_code == 0
    [before] = statements(client, bucket)
    with read_transaction(engine) as connection:
        lapses_at = connection.scalars(select(Denial.lapses_at)).one()
    clock.forward(seconds=301)
    client.delete_bucket_policy(Bucket=bucket)
    assert keep_denials(service.context) == {"denials": 0}
    assert (statements(client, bucket), status(last)) == ([before], 403)
    clock.forward(seconds=600)
    assert keep_denials(service.context) == {"denials": 1}
    assert (statements(client, bucket), status(last)) == ([], 200)
    assert last["expires_at"] == format_utc(lapses_at)
