import json
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from tests.support.builders.tenants_files import TenantsFile
from worker.ledger import tenant_rows
from worker.proof.verify.config_log import ConfigLog, Rows
from worker.rules.tenant_config import TenantConfig
from worker.tenants.apply_plan import diff_config

EXAMPLE = (Path(__file__).parents[3] / "examples" / "tenants.toml").read_text(encoding="utf-8")
KEY = "2GI-m__ZTC1r5jKb_rBjLVaF04XtHFphn9r_QS2RQs0", "EIvh283fmSeehYQ0W6rve-sSBwC73tW5L1tL7QRFElg"
SIGNED = f"""{EXAMPLE}
[tenants.initech.keys]
billing = {{ sign = "{KEY[0]}", seal = "{KEY[1]}", expires = 2027-11-25T08:30:00Z }}
[tenants.initech.allow.demo]
prefixes = ["initech/"]
kinds = ["put"]
max_size = "1GiB"
callbacks = []
[tenants.initech.quotas]
upload_bytes = {{ month = {{ limit = "1GiB", warn = "80%" }}, live = "2GiB" }}
"""
TEXTS = (
    EXAMPLE,
    SIGNED,
    SIGNED.replace("allow.demo", "allow.other").replace("buckets.demo", "buckets.other"),
    SIGNED.replace("expires = 2027-11-25T08:30:00Z", "revoked = true"),
    EXAMPLE[: EXAMPLE.index("[tenants.globex]")].replace(
        'prefixes = ["acme/"]', 'prefixes = ["*"]'
    ),
    "",
    SIGNED,
)
START = datetime(2026, 11, 24, tzinfo=UTC)


def logged(configs: list[TenantConfig]) -> tuple[ConfigLog, list[int]]:
    """Return the log of configs that follow one another, and the last change of each."""
    log, numbers, before = ConfigLog(), count(1), TenantConfig()
    lasts: list[int] = []
    for config in configs:
        for change in diff_config(before, config):
            number = next(numbers)
            after = json.loads(json.dumps(change.after))
            log.add(number, START + timedelta(hours=len(lasts)), change.path, after)
        lasts.append(number)
        before = config
    return log, lasts


def stored_rows(config: TenantConfig) -> Rows:
    """Return the rows that are stored for a config, without columns that are NULL."""
    return {
        table.name: {
            key: {name: value for name, value in row.items() if value is not None}
            for key, row in rows.items()
        }
        for table, rows in tenant_rows._rows(config).items()
        if rows
    }


def test_the_log_gives_the_rows_of_every_config_that_was_applied(
    tenants_file: TenantsFile,
) -> None:
    configs = [tenants_file.config(text) for text in TEXTS]
    log, lasts = logged(configs)
    assert [log.rows(number) for number in lasts] == list(map(stored_rows, configs))


def test_the_log_knows_when_a_config_was_replaced(tenants_file: TenantsFile) -> None:
    log, lasts = logged([tenants_file.config(text) for text in TEXTS[:3]])
    hours = [START + timedelta(hours=hour) for hour in (1, 2)]
    assert [log.next_time(number) for number in lasts] == [*hours, None]


def test_only_a_tenant_whose_name_was_used_before_has_its_id_in_the_log() -> None:
    log = ConfigLog()
    log.add(1, START, "tenants.acme.trust", "keys")
    log.add(2, START, "tenants.acme.id", "acme~2")
    log.add(3, START, "tenants.acme.quotas.grants.hour.raise", {"by": 5, "until": "2026-11-25"})
    row = {"name": "acme", "trust": "keys"}
    assert log.rows(1) == {"tenants": {("acme",): row | {"id": "acme"}}}
    assert log.rows(3) == {"tenants": {("acme",): row | {"id": "acme~2"}}}
