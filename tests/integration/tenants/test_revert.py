"""`apply --revert` brings back what was removed or changed."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import Operator
from tests.support.crypto.tokens import sign_message
from valetkey.crypto.keys import generate_key, public_key_line
from worker.quota.quota_command import quota
from worker.tenants.apply_command import apply

KEY = generate_key("acme/billing")
SHARED = """\
[buckets.demo]
bucket = "demo"
region = "us-east-1"

[tenants.globex]
trust = "queue"
"""
FULL = f"""{SHARED}
[tenants.acme.allow.demo]
prefixes = ["acme/", "*"]
kinds = ["download", "upload"]
max_size = "5MiB"
max_expires_in = "2h"
callbacks = ["billing"]

[tenants.acme.endpoints.billing]
url = "https://billing.example.com/hooks"
secret = "env:BILLING_SECRET"

[tenants.acme.quotas]
grants = {{ day = {{ limit = 100, warn = "80%" }}, live = 10 }}
upload_bytes.month = "1GiB"

[tenants.acme.keys]
{public_key_line(KEY).replace(" }", ", expires = 2099-01-01T00:00:00Z }")}
"""


def apply_all(operator: Operator, *texts: str) -> list[int]:
    """Apply each text, and return the number of its last change."""
    numbers = []
    for text in texts:
        result = operator.apply(text, "--yes")
        assert result.exit_code == 0, result.output
        numbers.append(operator.change_records()[-1].number)
    return numbers


def revert(operator: Operator, change: int, *options: str) -> Any:
    result = operator.revert(change, "--yes", *options)
    assert result.exit_code == 0, result.output
    return result


def test_a_removed_tenant_is_back_with_all_its_fields_and_its_id(operator: Operator) -> None:
    _, removal = apply_all(operator, FULL, SHARED)
    revert(operator, removal)
    operator.file.write_text(FULL, encoding="utf-8")
    assert operator.stored_config()[1] == operator.file_config()
    assert operator.stored_config()[1].tenants["acme"].id == "acme"


def test_a_restored_tenant_has_the_id_of_the_tenant_that_was_removed_last(
    operator: Operator,
) -> None:
    *_, removal = apply_all(operator, FULL, SHARED, FULL, SHARED)
    result = revert(operator, removal)
    assert operator.stored_config()[1].tenants["acme"].id == "acme~2"
    assert "is a new tenant" not in result.stderr


def test_a_restored_tenant_has_its_usage_and_batches(
    operator: Operator, service: InProcessService, clock: Clock
) -> None:
    apply_all(operator, FULL.replace("live = 10", "live = 1"))
    clock.time = datetime.now(UTC)  # the clock of apply
    message = sign_message(grant_message(["acme/a"]), KEY, clock())
    first = service.issue(message)
    *_, removal = apply_all(operator, SHARED)
    revert(operator, removal)
    assert service.issue(message)["status"] == first["status"] == "issued"
    refused = service.issue(sign_message(grant_message(["acme/b"]), KEY, clock()))
    assert refused["refusal"]["code"] == "quota_exceeded"


def test_a_revert_can_be_reverted(operator: Operator) -> None:
    _, removal = apply_all(operator, FULL, SHARED)
    before = operator.stored_config()[1]
    revert(operator, removal)
    revert(operator, operator.change_records()[-1].number)
    assert operator.stored_config()[1] == before


def test_what_was_changed_in_other_fields_since_stays(operator: Operator) -> None:
    _, change, _ = apply_all(
        operator,
        FULL,
        FULL.replace('"2h"', '"1h"'),
        FULL.replace('"2h"', '"1h"').replace('"5MiB"', '"6MiB"'),
    )
    revert(operator, change)
    operator.file.write_text(FULL.replace('"5MiB"', '"6MiB"'), encoding="utf-8")
    assert operator.stored_config()[1] == operator.file_config()


def test_a_quota_that_was_set_is_reverted(operator: Operator) -> None:
    apply_all(operator, FULL)
    before = operator.stored_config()[1]
    words = ["set", "acme", "grants", "day", "90"]
    assert CliRunner().invoke(quota, words).exit_code == 0
    revert(operator, operator.change_records()[-1].number)
    assert operator.stored_config()[1] == before


def test_a_dry_run_shows_the_difference_and_changes_nothing(operator: Operator) -> None:
    _, removal = apply_all(operator, FULL, SHARED)
    before = operator.stored_config()
    changes = json.loads(revert(operator, removal, "--dry-run", "--json").stdout)["changes"]
    assert {"path": "tenants.acme.quotas.grants.day.warn", "before": None, "after": 80} in changes
    assert operator.stored_config() == before


@pytest.fixture
def raised(operator: Operator) -> dict[str, int]:
    """Changes that cannot be undone."""
    first, _, _ = apply_all(
        operator, FULL, FULL.replace('"2h"', '"1h"'), FULL.replace('"2h"', '"30m"')
    )
    words = ["raise", "acme", "grants", "day", "--by", "5"]
    assert CliRunner().invoke(quota, words).exit_code == 0
    raise_ = operator.change_records()[-1].number
    return {"changed": first + 1, "raise": raise_, "unknown": raise_ + 1}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("changed", "max_expires_in was changed again since"),
        ("raise", "made by `quota raise`"),
        ("unknown", "there is no such change"),
    ],
)
def test_what_cannot_be_undone_is_refused_with_the_reason(
    operator: Operator, raised: dict[str, int], name: str, reason: str
) -> None:
    before = operator.stored_config()
    result = operator.revert(raised[name], "--yes")
    assert (result.exit_code, reason in result.stderr) == (1, True), result.output
    assert operator.stored_config() == before


@pytest.mark.parametrize("number", [-1, 0, 2**63])
def test_a_number_that_no_change_can_have_is_a_usage_error(operator: Operator, number: int) -> None:
    result = operator.revert(number)
    assert (result.exit_code, "is not in the range" in result.stderr) == (2, True), result.output


def test_a_revert_that_leaves_a_conflict_is_refused(operator: Operator) -> None:
    other = FULL.replace("tenants.acme", "tenants.initech").replace("acme/billing", "initech/k")
    _, removal, _ = apply_all(operator, FULL, SHARED, other)
    result = operator.revert(removal, "--yes")
    assert result.exit_code == 1
    assert "tenants.acme.allow.demo.prefixes" in result.stderr
    assert f"Change {removal} was not undone" in result.stderr


def test_a_file_and_a_revert_exclude_each_other(operator: Operator) -> None:
    operator.apply(FULL)
    result = CliRunner().invoke(apply, [str(operator.file), "--revert", "1"])
    assert (result.exit_code, "not both" in result.stderr) == (2, True)
