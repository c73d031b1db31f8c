"""Warnings of `doctor` about statements of revocations in bucket policies."""

from dataclasses import replace

from tests.support.builders.messages import DEMO
from worker.commands.health.denial_checks import DenialFacts, check_denials
from worker.core.tenants.config import TenantConfig
from worker.db.revocation.rows import DenialRow

CONFIG = TenantConfig({"demo": replace(DEMO, endpoint=None)})
HERE = DenialRow("sid", "demo", "valetkey-demo", "{}")
ELSEWHERE = HERE._replace(storage="moved")


def messages(facts: DenialFacts) -> list[str]:
    return [check.message for check in check_denials(facts, CONFIG)]


def test_a_statement_that_denies_live_grants_is_no_warning() -> None:
    assert messages(DenialFacts([HERE], [])) == []


def test_a_statement_that_should_be_removed_is_a_warning() -> None:
    assert messages(DenialFacts([], [HERE])) == [
        "statements of revocations are not removed from valetkey-demo"
    ]


def test_a_bucket_without_a_profile_is_a_warning() -> None:
    assert messages(DenialFacts([ELSEWHERE], [ELSEWHERE])) == [
        "moved has statements of revocations, and no bucket profile leads to it"
    ]
