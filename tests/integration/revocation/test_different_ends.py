"""A revocation of grants that expire at different times."""

from models import Denial
from tests.integration.revocation.conftest import KEY, OTHER_KEY, Links
from tests.support.builders.messages import Clock
from tests.support.s3.http_requests import status
from valetkey.units import format_utc
from worker.usecases.upkeep.denials import keep_denials

TERMS = {"kind": "download", "bucket": "demo"}


def test_a_statement_denies_the_last_grant_until_it_expires_and_is_removed_then(
    links: Links, clock: Clock
) -> None:
    [last] = links.grant(KEY, grant=TERMS | {"expires_in": 900})
    links.grant(OTHER_KEY, grant=TERMS | {"expires_in": 300})
    assert links.run("--tenant", "acme", "--yes").exit_code == 0
    [before] = links.statements()
    [(lapses_at,)] = links.rows(Denial.lapses_at)
    clock.forward(seconds=301)
    links.client.delete_bucket_policy(Bucket=links.bucket)
    assert keep_denials(links.context) == {"denials": 0}
    assert (links.statements(), status(last)) == ([before], 403)
    clock.forward(seconds=600)
    assert keep_denials(links.context) == {"denials": 1}
    assert (links.statements(), status(last)) == ([], 200)
    assert last["expires_at"] == format_utc(lapses_at)
