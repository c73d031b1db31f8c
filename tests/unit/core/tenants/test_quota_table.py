"""[tenants.NAME.quotas] of tenants.toml, and limits that contradict each other."""

from pathlib import Path

import pytest

from worker.core.tenants.config import Quota, TenantConfig
from worker.usecases.tenants_file import FileProblem, read_tenants_file

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
LINE = HEAD.count("\n") + 3  # of the first below [tenants.acme.quotas]


class Written:
    """A file whose tenant has these quotas, or whose policy has this line as well."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "tenants.toml"

    def read(self, quotas: str = "", policy: str = "") -> TenantConfig | list[FileProblem]:
        endpoint = '[tenants.acme.endpoints.billing]\nurl = "https://a.example.com/"\n'
        text = f"{HEAD}{policy}\n[tenants.acme.quotas]\n{quotas}\n{endpoint}secret = 'env:A'\n"
        self._file.write_text(text, encoding="utf-8")
        return read_tenants_file(self._file, development=False)

    def quotas(self, quotas: str) -> tuple[Quota, ...]:
        declared = self.read(quotas)
        assert isinstance(declared, TenantConfig), declared
        return declared.tenants["acme"].quotas

    def problem(self, quotas: str = "", policy: str = "") -> FileProblem:
        problems = self.read(quotas, policy)
        assert isinstance(problems, list)
        assert len(problems) == 1, problems
        return problems[0]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_every_metric_has_every_window(written: Written) -> None:
    numbers = "{ minute = 1, hour = 2, day = 3, month = 4, live = 5 }"
    sizes = '{ minute = "1MiB", hour = "2MiB", day = "3MiB", month = "4MiB", live = "5MiB" }'
    found = written.quotas(
        f"grants = {numbers}\ndownload_grants = {numbers}\nupload_bytes = {sizes}"
    )
    windows = ("day", "hour", "live", "minute", "month")
    metrics = ("download_grants", "grants", "upload_bytes")
    assert [(quota.metric, quota.window) for quota in found] == [
        (metric, window) for metric in metrics for window in windows
    ]


@pytest.mark.parametrize(
    ("line", "quota"),
    [
        ("grants = { hour = 10 }", Quota("grants", "hour", 10)),
        ("grants = { hour = { limit = 10 } }", Quota("grants", "hour", 10)),
        ("grants = { hour = { limit = 10, warn = 8 } }", Quota("grants", "hour", 10, 8)),
        ("grants = { hour = { limit = 10, warn = 10 } }", Quota("grants", "hour", 10, 10)),
        ('grants = { hour = { limit = 10, warn = "80%" } }', Quota("grants", "hour", 10, 8)),
        ('grants = { hour = { limit = 1, warn = "1%" } }', Quota("grants", "hour", 1, 1)),
        (
            'upload_bytes = { live = { limit = "4MiB", warn = "50%" } }',
            Quota("upload_bytes", "live", 2**22, 2**21),
        ),
        (
            'upload_bytes = { live = { limit = "4MiB", warn = "3MiB" } }',
            Quota("upload_bytes", "live", 2**22, 3 * 2**20),
        ),
    ],
)
def test_a_limit_is_a_value_or_a_table_with_a_warning(
    written: Written, line: str, quota: Quota
) -> None:
    assert written.quotas(line) == (quota,)


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
def test_a_warning_that_cannot_come_is_refused(written: Written, limit: str, path: str) -> None:
    assert written.problem(f"grants = {{ hour = {limit} }}").path == (
        f"tenants.acme.quotas.grants.{path}"
    )


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("grants.hour = 0", "a whole number"),
        ('download_grants.day = "100"', "a whole number"),
        ("grants.live = { limit = 0 }", "a whole number"),
        ('upload_bytes.live = "x"', "bytes, or like 500KiB or 10GiB"),
        ("upload_bytes.month = -1", "bytes, or like 500KiB or 10GiB"),
        ("upload_bytes.day = { limit = 10, warn = 11 }", 'a size, or a share like "80%"'),
        ("grants.hours = 10", None),
    ],
)
def test_a_limit_that_cannot_be_is_refused_with_what_can(
    written: Written, line: str, hint: str | None
) -> None:
    problem = written.problem(line)
    assert (problem.line, problem.hint) == (LINE, hint)


def test_a_batch_size_that_cannot_be_is_refused_with_what_it_counts(written: Written) -> None:
    problem = written.problem(policy="max_batch = 0\n")
    assert problem.hint == "items in one request"


@pytest.mark.parametrize(
    ("quotas", "path", "other"),
    [
        ("grants = { hour = 11, day = 10 }", "grants.hour", "grants.day"),
        ("grants = { minute = 11, month = 10 }", "grants.minute", "grants.month"),
        (
            "grants = { hour = 10 }\ndownload_grants = { hour = 11 }",
            "download_grants.hour",
            "grants.hour",
        ),
        (
            "grants = { live = 10 }\ndownload_grants = { live = 11 }",
            "download_grants.live",
            "grants.live",
        ),
    ],
)
def test_a_limit_that_another_keeps_from_being_reached_is_refused(
    written: Written, quotas: str, path: str, other: str
) -> None:
    problem = written.problem(quotas)
    assert problem.path == f"tenants.acme.quotas.{path}"
    assert f"{other} (line {LINE})" in problem.message
    assert problem.hint == f"lower it, or raise {other}"


def test_each_limit_is_held_against_the_longer_window_that_allows_least(written: Written) -> None:
    problems = written.read("grants = { minute = 3, hour = 4, day = 2, month = 9 }")
    assert isinstance(problems, list)
    assert [problem.path.rpartition(".")[2] for problem in problems] == ["minute", "hour"]
    assert all("only 2, grants.day" in problem.message for problem in problems)


@pytest.mark.parametrize(
    "quotas",
    [
        "grants = { hour = 10, day = 10 }",
        "grants = { live = 11, month = 10 }",  # of two months may be live at once
        "grants = { hour = 10 }\ndownload_grants = { day = 11, hour = 10 }",
    ],
)
def test_limits_that_can_be_reached_are_taken(written: Written, quotas: str) -> None:
    assert isinstance(written.read(quotas), TenantConfig)


def test_an_upload_larger_than_a_quota_of_bytes_is_refused(written: Written) -> None:
    problem = written.problem('upload_bytes = { month = "1023KiB" }')
    assert (problem.path, problem.line) == ("tenants.acme.allow.demo.max_size", 10)
    assert f"upload_bytes.month (line {LINE})" in problem.message


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ("max_batch = 101", "max_batch"),
        ("max_batch = 0", "max_batch"),
        ('callbacks = ["bill"]', "callbacks[0]"),
        ('callbacks = ["billing", "audit"]', "callbacks[1]"),
        ('callbacks = "billing"', "callbacks"),
        ("shared = 1", "shared"),
    ],
)
def test_a_policy_cannot_allow_what_its_tenant_has_not(
    written: Written, policy: str, path: str
) -> None:
    problem = written.problem(policy=policy)
    assert (problem.path, problem.line) == (f"tenants.acme.allow.demo.{path}", 11)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("biling", "did you mean billing?"),
        ("x", "declare it: [tenants.acme.endpoints.x]"),
    ],
)
def test_an_unknown_callback_has_a_hint(written: Written, name: str, hint: str) -> None:
    assert written.problem(policy=f'callbacks = ["{name}"]').hint == hint


def test_a_policy_says_which_endpoints_how_many_items_and_whether_it_is_shared(
    written: Written,
) -> None:
    declared = written.read(policy='callbacks = ["billing"]\nmax_batch = 100\nshared = true')
    assert isinstance(declared, TenantConfig), declared
    policy = declared.tenants["acme"].policies["demo"]
    assert (policy.callbacks, policy.max_batch, policy.shared) == (("billing",), 100, True)


def test_a_policy_that_says_none_of_it_allows_what_its_tenant_has(written: Written) -> None:
    declared = written.read()
    assert isinstance(declared, TenantConfig), declared
    policy = declared.tenants["acme"].policies["demo"]
    assert (policy.callbacks, policy.max_batch, policy.shared) == (None, None, False)
