"""Helpers for tests of `doctor`: its checks, bucket profiles, and tables to compare."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from tests.support.builders import services
from tests.support.cli.operator import json_lines
from tests.support.docs.command_lines import ROOT
from tests.support.servers.databases import migrated_file, open_engine
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.doctor.doctor_command import doctor
from worker.live.live_checks import LIVE_CHECKS
from worker.rules.tenant_config import Bucket, Tenant, TenantConfig


def run_doctor(*options: str) -> Result:
    return CliRunner().invoke(doctor, ["--json", *options])


def doctor_checks(name: str, *options: str) -> list[dict[str, Any]]:
    return [check for check in json_lines(run_doctor(*options)) if check["check"] == name]


PAGE = ROOT / "docs" / "appendix" / "live-checks.md"
SECRET_KEY = "not-a-secret-but-nobody-may-print-it"
NO_TENANTS: Mapping[str, Tenant] = {}
Verdicts = Mapping[tuple[str, str], str]
UseStorage = Callable[[str | None], None]


def store_profiles(
    folder: Path, *buckets: Bucket, tenants: Mapping[str, Tenant] = NO_TENANTS
) -> str:
    """Create a database with these bucket profiles and tenants, and return its URL."""
    url = migrated_file(folder / "valetkey.db")
    with open_engine(url) as engine:
        service = services.build_service(engine, S3Clients(), clock.now)
        service.apply(TenantConfig({bucket.name: bucket for bucket in buckets}, tenants))
    return url


def verdicts(findings: list[dict[str, Any]]) -> Verdicts:
    return {(row["grant"], row["check"]): row["verdict"] for row in findings}


def documented_verdicts(server: str) -> Verdicts:
    """Return the verdicts of the table that docs/appendix/live-checks.md shows for a server."""
    page = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(rf"## {server} [^\n]+\n\n```text\n(.*?)```", page, re.DOTALL)
    lines = block.splitlines()
    header = lines.index("") + 1
    starts = [lines[header].index(name) for name in ("grant", "check", "expected", "verdict")]
    end = lines[header].index("answer")
    rows = [
        [line[start:stop].strip() for start, stop in zip(starts, [*starts[1:], end], strict=True)]
        for line in lines[header + 1 : lines.index("", header)]
    ]
    return {(grant, check): verdict for grant, check, _, verdict in rows}


def run_live(*options: str) -> Result:
    return CliRunner().invoke(doctor, ["--live", "demo", *options])


def first_row(result: Result) -> dict[str, Any]:
    """Return the first row, after checking that no other check was tried."""
    first, *others, deletion = json_lines(result)
    assert result.exit_code == 1
    assert len(others) == len(LIVE_CHECKS) - 1 or deletion["grant"] != "all"
    assert {row["verdict"] for row in others} == {"not tried"}
    assert {row["note"] for row in others} == {"the first check failed"}
    return first
