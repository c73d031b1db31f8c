"""Plain links, which name no grant, are accounted for like any other grant."""

from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy import Engine, select

from models import Grant, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import POLICY, download_message, tenant_config
from tests.support.builders.services import InProcessService
from valetkey.wire.refusals import Code
from worker.db.engine import read_transaction

PLAIN = {"demo": replace(POLICY, plain=True)}


def audit_rows(engine: Engine) -> list[tuple[str, str | None]]:
    """Return the object key and refusal code of each audit row."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(Grant.object_key, Grant.code))
        return [(row.object_key, row.code) for row in rows]


def charged_grants(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.download_grants).where(Usage.window == "hour")
        return connection.execute(query).scalar() or 0


def test_a_plain_link_is_audited_charged_and_signed_again_like_any_other(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config(policies=PLAIN))
    request = download_message(plain=True)
    (grant,) = service.issue(request)["items"]
    assert grant["id"] == f"{request['batch']}.0"
    assert {name[:6] for name, _ in parse_qsl(urlsplit(grant["url"]).query)} == {"X-Amz-"}
    assert service.issue(request)["items"] == [grant]
    assert audit_rows(engine) == [("acme/a.pdf", None)]
    assert charged_grants(engine) == 1


def test_a_plain_link_is_refused_by_a_policy_that_does_not_allow_it(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    refusal = service.issue(download_message(plain=True))["refusal"]
    assert (refusal["code"], refusal["field"]) == (Code.PLAIN_NOT_ALLOWED, "grant.plain")
    assert audit_rows(engine) == [("acme/a.pdf", "plain_not_allowed")]
    assert charged_grants(engine) == 0


def test_a_plain_link_is_not_signed_again_once_the_policy_does_not_allow_it(
    apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config(policies=PLAIN))
    request = download_message(plain=True)
    service.issue(request)
    apply_config(tenant_config())
    assert service.issue(request)["refusal"]["code"] == Code.PLAIN_NOT_ALLOWED
