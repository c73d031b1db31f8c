import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from click.testing import CliRunner
from sqlalchemy import func, insert, select

from models import Base, Usage
from tests.support.cli.operator import Operator
from worker.clock import now
from worker.commands.apply import apply
from worker.core.tenants.config import TenantConfig
from worker.db.engine import create_database_engine, read_transaction, write_transaction
from worker.db.tenants import load_config, store_config
from worker.errors import Transient

EXAMPLE = Path(__file__).parents[3] / "examples" / "tenants.toml"
TEXT = f"""{EXAMPLE.read_text(encoding="utf-8")}
[tenants.globex.endpoints.billing]
url = "https://billing.example.com/hooks"
secret = "env:BILLING_SECRET"
"""
WITHOUT_GLOBEX = TEXT[: TEXT.index("[tenants.globex]")]
APPLY = (sys.executable, "-c", "from worker.commands.apply import apply; apply()")


@pytest.fixture
def operator(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Operator]:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    engine = create_database_engine(database_url)
    yield Operator(engine, tmp_path / "tenants.toml")
    engine.dispose()


def row_counts(operator: Operator, tenant: str) -> dict[str, int]:
    counts = {}
    with read_transaction(operator.engine) as connection:
        for name in ("policies", "quotas", "endpoints", "usage"):
            table = Base.metadata.tables[name]
            query = select(func.count()).select_from(table).where(table.c.tenant == tenant)
            counts[name] = connection.scalar(query) or 0
    return counts


def test_the_file_is_stored_in_the_database(operator: Operator) -> None:
    result = operator.apply(TEXT)
    assert result.exit_code == 0, result.output
    assert "+ tenants.acme.quotas.grants.hour 50,000\n" in result.stdout
    assert operator.stored_config() == (1, operator.file_config())


def test_applying_a_file_again_changes_nothing(operator: Operator) -> None:
    operator.apply(TEXT)
    result = operator.apply(TEXT)
    assert (result.exit_code, result.stdout) == (0, "Nothing to change.\n")
    assert operator.stored_config()[0] == 1


def test_a_changed_limit_is_shown_and_counted_as_a_revision(operator: Operator) -> None:
    operator.apply(TEXT)
    result = operator.apply(TEXT.replace("hour = 50_000", "hour = 60_000"))
    assert result.stdout == "~ tenants.acme.quotas.grants.hour 50,000 → 60,000\nApplied.\n"
    assert operator.stored_config() == (2, operator.file_config())


def test_every_kind_of_change_is_applied_at_once(operator: Operator) -> None:
    operator.apply(TEXT)
    result = operator.apply(
        TEXT.replace("buckets.demo", "buckets.other")
        .replace("allow.demo", "allow.other")
        .replace("endpoints.billing", "endpoints.audit")
        .replace("hour = 100", "month = { limit = 100, warn = 80 }")
        .replace('max_expires_in = "1h"', 'max_batch = 5\nshared = true\ncallbacks = ["audit"]')
        .replace("tenants.globex", "tenants.initech"),
        "--yes",
    )
    assert result.exit_code == 0, result.output
    assert operator.stored_config() == (2, operator.file_config())


def test_everything_of_a_bucket_profile_is_stored(operator: Operator) -> None:
    result = operator.apply(f"""{TEXT}
[buckets.full]
bucket = "acme-full"
region = "us-east-1"
addressing = "path"
endpoint = "https://s3.example.com"
profile = "workers-only"
internal_endpoint = "http://minio:9000"
provider = "other"
post = false
owner = "111122223333"
max_expires_in = "12h"
role_arn = "arn:aws:iam::111122223333:role/valetkey"
external_id = "agreed"
role_seconds = "2h"
[buckets.amazons]
bucket = "acme-amazons"
region = "us-east-1"
fips = true
dualstack = true
[buckets.fast]
bucket = "acme-fast"
region = "us-east-1"
accelerate = true
""")
    assert result.exit_code == 0, result.output
    assert operator.stored_config() == (1, operator.file_config())


def test_a_bucket_profile_that_boto3_refuses_is_not_applied(operator: Operator) -> None:
    text = TEXT.replace("us-east-1", "cn-north-1").replace(
        'addressing = "path"', "accelerate = true"
    )
    result = operator.apply(text)
    assert result.exit_code == 1
    assert "buckets.demo: boto3 cannot sign" in result.stderr
    assert operator.stored_config() == (0, TenantConfig())


def test_a_dry_run_changes_nothing(operator: Operator) -> None:
    result = operator.apply(TEXT, "--dry-run")
    assert result.exit_code == 0
    assert "+ tenants.acme.trust queue" in result.output
    assert operator.stored_config() == (0, TenantConfig())


def test_no_part_of_an_invalid_file_is_applied(operator: Operator) -> None:
    operator.apply(TEXT)
    before = operator.stored_config()
    result = operator.apply(TEXT.replace("hour = 50_000", "hour = 60_000") + "\nmax = 1\n")
    assert result.exit_code == 1
    assert "tenants.globex.endpoints.billing.max: no such field" in result.stderr
    assert operator.stored_config() == before


def test_a_tenant_is_not_removed_without_a_terminal_or_yes(operator: Operator) -> None:
    operator.apply(TEXT)
    before = operator.stored_config()
    result = operator.apply(WITHOUT_GLOBEX)
    assert result.exit_code == 1
    assert "tenants.globex: 0 live grants, 0 pending webhooks" in result.stderr
    assert "give --yes" in result.stderr
    assert operator.stored_config() == before


def test_a_removed_tenant_leaves_only_its_usage(operator: Operator) -> None:
    operator.apply(TEXT)
    hour = now().replace(minute=0, second=0, microsecond=0)
    row = {"tenant": "globex", "window": "hour", "window_start": hour, "grants": 7}
    with write_transaction(operator.engine) as connection:
        connection.execute(insert(Usage).values(row | {"download_grants": 7, "upload_bytes": 0}))
    assert operator.apply(WITHOUT_GLOBEX, "--yes").exit_code == 0
    assert row_counts(operator, "globex") == {
        "policies": 0,
        "quotas": 0,
        "endpoints": 0,
        "usage": 1,
    }


def test_the_difference_is_printed_as_json(operator: Operator) -> None:
    operator.apply(TEXT)
    result = operator.apply(TEXT.replace("hour = 50_000", "hour = 60_000"), "--json")
    path = "tenants.acme.quotas.grants.hour"
    output = json.loads(result.stdout)
    assert output["changes"] == [{"path": path, "before": 50_000, "after": 60_000}]
    assert (output["applied"], output["losses"]) == (True, [])
    assert output["trusts_queue"] == ["acme", "globex"]
    assert [(risk["code"], risk["tenant"]) for risk in output["risks"]] == [
        ("trusts_queue", "acme"),
        ("trusts_queue", "globex"),
    ]


def test_of_two_concurrent_applies_one_is_refused(operator: Operator) -> None:
    operator.file.write_text(TEXT, encoding="utf-8")
    config, barrier = operator.file_config(), Barrier(2)

    def read_and_apply(_number: int) -> str:
        with read_transaction(operator.engine) as connection:
            before = load_config(connection)
        barrier.wait()
        try:
            with write_transaction(operator.engine) as connection:
                store_config(connection, before, config, now())
        except Transient as error:
            return str(error)
        return "applied"

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(read_and_apply, range(2)))
    assert results == ["another config was applied in the meantime: apply again", "applied"]
    assert operator.stored_config() == (1, config)


def test_a_database_without_tables_ends_with_a_hint_to_migrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.db").touch()
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    file = tmp_path / "tenants.toml"
    file.write_text(TEXT, encoding="utf-8")
    result = CliRunner().invoke(apply, [str(file)])
    assert result.exit_code == 1
    assert "python -m worker migrate" in result.stderr


def test_a_missing_file_is_a_usage_error(operator: Operator) -> None:
    assert CliRunner().invoke(apply, [str(operator.file)]).exit_code == 2


@pytest.mark.parametrize(("reply", "exit_code", "revisions"), [("n", 1, 0), ("y", 0, 1)])
def test_on_a_terminal_nothing_is_applied_without_confirmation(
    operator: Operator, reply: str, exit_code: int, revisions: int
) -> None:
    operator.file.write_text(TEXT, encoding="utf-8")
    terminal, stdin = pty.openpty()
    os.write(terminal, f"{reply}\n".encode())
    process = subprocess.run(
        [*APPLY, str(operator.file)], stdin=stdin, capture_output=True, text=True, check=False
    )
    os.close(stdin)
    os.close(terminal)
    assert process.returncode == exit_code, process.stderr
    assert "Apply this?" in process.stderr
    assert operator.stored_config()[0] == revisions
