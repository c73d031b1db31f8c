"""The [tenants.NAME.quotas] table of tenants.toml, and limits that contradict each other."""

import pytest

from tests.support.builders.tenants_files import TenantsFile
from worker.rules.tenant_config import Quota

HEAD = """\
[buckets.demo]
bucket = "demo"
region = "us-east-1"
[tenants.acme]
trust = "queue"
max_batch = 100
[tenants.acme.allow.demo]
prefixes = ["acme/"]
kinds = ["upload"]
max_size = "1MiB"
"""
LINE = HEAD.count("\n") + 3  # the first line below [tenants.acme.quotas]


def file_text(quotas: str = "", policy: str = "") -> str:
    """Return a file whose tenant has quotas, or whose policy has additional lines."""
    endpoint = '[tenants.acme.endpoints.billing]\nurl = "https://a.example.com/"\n'
    return f"{HEAD}{policy}\n[tenants.acme.quotas]\n{quotas}\n{endpoint}secret = 'env:A'\n"


def quotas_of(file: TenantsFile, quotas: str) -> tuple[Quota, ...]:
    return file.config(file_text(quotas)).tenants["acme"].quotas


def test_every_metric_has_every_window(tenants_file: TenantsFile) -> None:
    numbers = "{ minute = 1, hour = 2, day = 3, month = 4, live = 5 }"
    sizes = '{ minute = "1MiB", hour = "2MiB", day = "3MiB", month = "4MiB", live = "5MiB" }'
    quotas = quotas_of(
        tenants_file, f"grants = {numbers}\ndownload_grants = {numbers}\nupload_bytes = {sizes}"
    )
    windows = ("day", "hour", "live", "minute", "month")
    metrics = ("download_grants", "grants", "upload_bytes")
    assert [(quota.metric, quota.window) for quota in quotas] == [
        (metric, window) for metric in metrics for window in windows
    ]


BYTES = Quota("upload_bytes", "live", 2**20, 9)


@pytest.mark.parametrize(
    ("line", "quota"),
    [
        ("grants = { hour = 10 }", Quota("grants", "hour", 10)),
        ("grants = { hour = { limit = 10 } }", Quota("grants", "hour", 10)),
        ("grants = { hour = { limit = 10, warn = 10 } }", Quota("grants", "hour", 10, 10)),
        ('grants = { hour = { limit = 10, warn = "80%" } }', Quota("grants", "hour", 10, 8)),
        ('grants = { hour = { limit = 1, warn = "1%" } }', Quota("grants", "hour", 1, 1)),
        ('upload_bytes = { live = { limit = "1MiB", warn = 9 } }', BYTES),
    ],
)
def test_a_limit_is_a_value_or_a_table_with_a_warning(
    tenants_file: TenantsFile, line: str, quota: Quota
) -> None:
    assert quotas_of(tenants_file, line) == (quota,)


@pytest.mark.parametrize(
    ("limit", "path"),
    [
        ("{ limit = 10, warn = 11 }", "hour.warn"),
        ("{ limit = 10, warn = 0 }", "hour.warn"),
        ('{ limit = 10, warn = "0%" }', "hour.warn"),
        ('{ limit = 10, warn = "101%" }', "hour.warn"),
        ('{ limit = 10, warn = "-5%" }', "hour.warn"),
        ('{ limit = 10, warn = "1KiB" }', "hour.warn"),
        ("{ warn = 10 }", "hour.limit"),
        ('{ limit = 0, warn = "80%" }', "hour.limit"),
        ("true", "hour"),
        ("[1]", "hour"),
    ],
)
def test_an_invalid_limit_or_warning_is_refused(
    tenants_file: TenantsFile, limit: str, path: str
) -> None:
    problem = tenants_file.problem(file_text(f"grants.hour = {limit}"))
    assert problem.path == f"tenants.acme.quotas.grants.{path}"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ('download_grants.day = "100"', "a whole number"),
        ("grants.live = { limit = 0 }", "a whole number"),
        ("upload_bytes.month = -1", "bytes, or a size like 500KiB or 10GiB"),
        (
            "upload_bytes.day = { limit = 10, warn = 11 }",
            'a size up to the limit, or a percentage like "80%"',
        ),
        ("grants.hours = 10", None),
    ],
)
def test_an_invalid_limit_has_a_hint(
    tenants_file: TenantsFile, line: str, hint: str | None
) -> None:
    problem = tenants_file.problem(file_text(line))
    assert (problem.line, problem.hint) == (LINE, hint)


@pytest.mark.parametrize(
    ("quotas", "path", "other"),
    [
        ("grants = { hour = 11, day = 10 }", "grants.hour", "grants.day"),
        ("grants.live = 10\ndownload_grants.live = 11", "download_grants.live", "grants.live"),
    ],
)
def test_a_limit_that_another_limit_makes_unreachable_is_refused(
    tenants_file: TenantsFile, quotas: str, path: str, other: str
) -> None:
    problem = tenants_file.problem(file_text(quotas))
    assert problem.path == f"tenants.acme.quotas.{path}"
    assert f"{other} allows only 10 (line {LINE})" in problem.message
    assert problem.hint == f"lower this limit to 10, or increase {other}"


def test_each_limit_is_compared_with_the_smallest_of_a_longer_window(
    tenants_file: TenantsFile,
) -> None:
    text = file_text("grants = { minute = 3, hour = 4, day = 2, month = 9 }")
    problems = tenants_file.problems(text)
    assert [problem.path.rpartition(".")[2] for problem in problems] == ["minute", "hour"]
    assert all("grants.day allows only 2" in problem.message for problem in problems)


@pytest.mark.parametrize(
    "quotas",
    [
        "grants = { hour = 10, day = 10 }",
        "grants = { live = 11, month = 10 }",  # grants of two months may be live at once
        "grants = { hour = 10 }\ndownload_grants = { day = 11, hour = 10 }",
    ],
)
def test_limits_that_can_be_reached_are_accepted(tenants_file: TenantsFile, quotas: str) -> None:
    tenants_file.config(file_text(quotas))


def test_an_upload_larger_than_a_quota_of_bytes_is_refused(tenants_file: TenantsFile) -> None:
    problem = tenants_file.problem(file_text('upload_bytes = { month = "1023KiB" }'))
    assert (problem.path, problem.line) == ("tenants.acme.allow.demo.max_size", 10)
    quota = f"the quota upload_bytes.month of 1023 KiB (1,047,552 bytes) (line {LINE})"
    assert quota in problem.message


@pytest.mark.parametrize(
    ("policy", "path", "hint"),
    [
        ("max_batch = 101", "max_batch", ""),
        ('callbacks = ["biling"]', "callbacks[0]", "did you mean billing?"),
        (
            'callbacks = ["billing", "x"]',
            "callbacks[1]",
            "add the table [tenants.acme.endpoints.x]",
        ),
    ],
)
def test_a_policy_cannot_exceed_its_tenant(
    tenants_file: TenantsFile, policy: str, path: str, hint: str
) -> None:
    problem = tenants_file.problem(file_text(policy=policy))
    assert (problem.path, problem.line) == (f"tenants.acme.allow.demo.{path}", 11)
    assert hint in str(problem.hint)


def test_a_policy_sets_endpoints_items_and_sharing(tenants_file: TenantsFile) -> None:
    lines = 'callbacks = ["billing"]\nmax_batch = 100\nshared = true'
    policy = tenants_file.config(file_text(policy=lines)).tenants["acme"].policies["demo"]
    assert (policy.callbacks, policy.max_batch, policy.shared) == (("billing",), 100, True)


def test_stored_bytes_have_a_limit_for_what_is_stored_now_alone(tenants_file: TenantsFile) -> None:
    quotas = quotas_of(tenants_file, 'stored_bytes = { live = "1GiB" }')
    assert quotas == (Quota("stored_bytes", "live", 2**30),)
    daily = tenants_file.problem(file_text("stored_bytes = { day = 2 }"))
    assert "its only window is live" in str(daily)
    small = tenants_file.problem(file_text('stored_bytes = { live = "1KiB" }'))
    assert "exceeds the quota stored_bytes.live" in str(small)


STORED = file_text('stored_bytes = { live = "1GiB" }')
OTHER = '[buckets.other]\nbucket = "demo"\nregion = "us-east-1"\nversioned = true\n'


@pytest.mark.parametrize(
    "versioned",
    [STORED.replace("[tenants.acme]", "versioned = true\n[tenants.acme]", 1), OTHER + STORED],
    ids=["its profile", "another profile"],
)
def test_stored_bytes_are_refused_where_earlier_versions_stay(
    tenants_file: TenantsFile, versioned: str
) -> None:
    problem = tenants_file.problem(versioned)
    assert problem.path == "tenants.acme.quotas.stored_bytes.live"
    assert "keeps earlier versions" in str(problem)
    tenants_file.config(versioned.replace('"upload"', '"download"'))


def test_stored_bytes_are_refused_if_nothing_tells_of_objects(tenants_file: TenantsFile) -> None:
    free = STORED.replace("max_size", "free_names = true\nmax_size")
    assert "names clients choose" in str(tenants_file.problem(free))
    queue = 'events_queue = "https://sqs.us-east-1.amazonaws.com/1/events"\n[tenants.acme]'
    tenants_file.config(free.replace("[tenants.acme]", queue, 1))
