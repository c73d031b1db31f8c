import re
from pathlib import Path

import pytest

from tests.support.builders.tenants_files import TenantsFile
from worker.rules.tenant_config import Bucket, Policy, Quota, Tenant, TenantConfig, WebhookEndpoint

EXAMPLE = Path(__file__).parents[3] / "examples" / "tenants.toml"
GOOD = """\
[buckets.reports]
bucket = "acme-reports"
region = "eu-central-1"

[tenants.acme]
trust = "queue"
max_batch = 500

[tenants.acme.allow.reports]
prefixes = ["acme/"]
kinds = ["download", "upload"]
max_expires_in = "1d"
max_size = "500MiB"
content_types = ["application/pdf", "image/*"]
acls = ["public-read"]

[tenants.acme.quotas]
upload_bytes = { day = "10GiB" }
grants = { hour = 50_000, day = 200_000 }

[tenants.acme.endpoints.billing]
url = "https://billing.example.com/hooks"
secret = "env:BILLING_SECRET"
"""


def changed(line: str, instead: str) -> str:
    """Return the good file with one line replaced."""
    assert line in GOOD
    return GOOD.replace(line, instead)


def test_a_file_is_read_into_seconds_and_bytes(tenants_file: TenantsFile) -> None:
    policy = Policy(
        bucket="reports",
        prefixes=("acme/",),
        kinds=("download", "upload"),
        max_expires_in=86_400,
        max_size=500 * 2**20,
        content_types=("application/pdf", "image/*"),
        acls=("public-read",),
    )
    quotas = (
        Quota("grants", "day", 200_000),
        Quota("grants", "hour", 50_000),
        Quota("upload_bytes", "day", 10 * 2**30),
    )
    hook = WebhookEndpoint("billing", "https://billing.example.com/hooks", "env:BILLING_SECRET")
    policies, hooks = {"reports": policy}, {"billing": hook}
    acme = Tenant("acme", "queue", 500, policies=policies, quotas=quotas, endpoints=hooks)
    reports = Bucket("reports", "acme-reports", "eu-central-1")
    assert tenants_file.config(GOOD) == TenantConfig({"reports": reports}, {"acme": acme})


def uncommented(text: str) -> str:
    return re.sub(r"^# (?=\[|[\w-]+ = )", "", text, flags=re.MULTILINE)


def test_the_commented_part_of_the_example_is_valid(tenants_file: TenantsFile) -> None:
    example = tenants_file.config(uncommented(EXAMPLE.read_text(encoding="utf-8")))
    assert list(example.tenants) == ["acme", "globex", "initech", "hooli"]
    assert example.tenants["initech"].trust == "keys"
    assert list(example.tenants["initech"].keys) == ["billing-2026", "billing-2027"]


def test_a_star_is_the_whole_bucket(tenants_file: TenantsFile) -> None:
    config = tenants_file.config(changed('["acme/"]', '["*"]'))
    assert config.tenants["acme"].policies["reports"].prefixes == ("",)


@pytest.mark.parametrize(
    ("line", "instead", "path"),
    [
        ('region = "eu-central-1"', 'region = "eu central"', "buckets.reports.region"),
        ('"acme-reports"', '"Acme"', "buckets.reports.bucket"),
        ('"acme-reports"', '"acme.reports"', "buckets.reports.addressing"),
        ('"eu-central-1"', '"x"\nendpoint = "https://s3/b"', "buckets.reports.endpoint"),
        ('"queue"', '"everyone"', "tenants.acme.trust"),
        ("max_batch = 500", "max_batch = true", "tenants.acme.max_batch"),
        ('["acme/"]', "[]", "tenants.acme.allow.reports.prefixes"),
        ('["acme/"]', '["acme"]', "tenants.acme.allow.reports.prefixes[0]"),
        ('["acme/"]', '["acme/", ""]', "tenants.acme.allow.reports.prefixes[1]"),
        ('["acme/"]', '["acme/../b/"]', "tenants.acme.allow.reports.prefixes[0]"),
        ('"upload"]', '"delete"]', "tenants.acme.allow.reports.kinds[1]"),
        ('"1d"', "0", "tenants.acme.allow.reports.max_expires_in"),
        ('max_size = "500MiB"', "", "tenants.acme.allow.reports.max_size"),
        ('"500MiB"', '"6000GiB"', "tenants.acme.allow.reports.max_size"),
        ('"image/*"', '"image"', "tenants.acme.allow.reports.content_types[1]"),
        ('"image/*"', '"Image/*"', "tenants.acme.allow.reports.content_types[1]"),
        ('"public-read"', '"everyone"', "tenants.acme.allow.reports.acls[0]"),
        ("hour = 50_000", "week = 1", "tenants.acme.quotas.grants.week"),
        ("https://billing", "http://billing", "tenants.acme.endpoints.billing.url"),
        ("env:BILLING_SECRET", "BILLING_SECRET", "tenants.acme.endpoints.billing.secret"),
    ],
)
def test_an_invalid_value_is_refused_with_its_path(
    tenants_file: TenantsFile, line: str, instead: str, path: str
) -> None:
    assert tenants_file.problem(changed(line, instead)).path == path


@pytest.mark.parametrize(
    ("line", "instead", "hint"),
    [
        ("[buckets.reports]", "[bucket]\n[buckets.reports]", "did you mean buckets?"),
        ("region =", 'acl = "x"\nregion =', "the fields here are bucket, region, "),
        ("upload_bytes =", "uploadbytes =", "did you mean upload_bytes?"),
        ("secret =", 'secrets = ""\nsecret =', "did you mean secret?"),
        ("hour = 50_000", "hour = { limit = 1, warm = 1 }", "did you mean warn?"),
        ("[tenants.acme.quotas]", "[tenants.acme.quotas]\ndownload_grant = {}", "did you mean"),
    ],
)
def test_an_unknown_field_is_refused_with_the_most_similar_name(
    tenants_file: TenantsFile, line: str, instead: str, hint: str
) -> None:
    problem = tenants_file.problem(changed(line, instead))
    assert problem.message == "no such field"
    assert str(problem.hint).startswith(hint)


def test_trust_in_the_queue_has_to_be_explicit(tenants_file: TenantsFile) -> None:
    problem = tenants_file.problem(changed('trust = "queue"\n', ""))
    assert (problem.path, problem.line) == ("tenants.acme.keys", 5)
    assert "every message of this tenant would be refused" in problem.message
    assert problem.hint == "create a key: valetkey keygen acme"


def test_a_policy_needs_an_existing_bucket_profile(tenants_file: TenantsFile) -> None:
    problem = tenants_file.problem(changed("allow.reports", "allow.report"))
    assert problem.path == "tenants.acme.allow.report"
    assert problem.message.endswith("did you mean reports?")


def test_problems_of_one_line_are_in_its_order(tenants_file: TenantsFile) -> None:
    names = list("hfbdgace")
    policies = ", ".join(f'{name} = {{ prefixes = ["*"], kinds = ["download"] }}' for name in names)
    problems = tenants_file.problems(f'[tenants.acme]\ntrust = "queue"\nallow = {{ {policies} }}\n')
    assert [problem.path for problem in problems] == [
        f"tenants.acme.allow.{name}" for name in names
    ]


@pytest.mark.parametrize("name", ["Acme", "_acme", "a" * 64, "a.b", "akmé", ""])
def test_an_invalid_name_is_refused(tenants_file: TenantsFile, name: str) -> None:
    tenant = f'[tenants."{name}"]\ntrust = "queue"\n'
    problem = tenants_file.problem(changed("[tenants.acme]", f"{tenant}[tenants.acme]"))
    assert problem.message.startswith("a name is")


def test_every_problem_is_reported_at_once_in_the_order_of_its_line(
    tenants_file: TenantsFile,
) -> None:
    text = GOOD.replace("max_batch = 500", "maxbatch = 0")
    text = text.replace("day = 200_000", "day = -1").replace('"1d"', '"8d"')
    problems = tenants_file.problems(text + "\n[tenants.b]\n")
    assert [(problem.path, problem.line) for problem in problems] == [
        ("tenants.acme.maxbatch", 7),
        ("tenants.acme.allow.reports.max_expires_in", 12),
        ("tenants.acme.quotas.grants.day", 19),
        ("tenants.b.keys", 25),
    ]


@pytest.mark.parametrize("prefix", ["whsec_", "whsk_"])
def test_a_secret_in_the_file_is_refused_with_its_line_and_not_repeated(
    tenants_file: TenantsFile, prefix: str
) -> None:
    secret = f"{prefix}MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    problem = tenants_file.problem(changed("env:BILLING_SECRET", secret))
    assert (problem.path, problem.line) == ("tenants.acme.endpoints.billing.secret", 23)
    assert "MfKQ9r8G" not in str(problem)


WEAK = {
    "short": "whsec_" + "a" * 28,
    "long": "whsec_" + "a" * 88,
    "not base64": "whsec_hush!",
    "no secret": "hush",
    "empty": " ",
    "a public key": "whpk_" + "a" * 43 + "=",
}


@pytest.mark.parametrize("content", WEAK.values(), ids=WEAK)
@pytest.mark.parametrize("scheme", ["env", "file"])
def test_a_reference_to_a_weak_secret_is_refused_with_its_line_if_it_can_be_read_here(
    tenants_file: TenantsFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    scheme: str,
) -> None:
    (tmp_path / "hook").write_text(content)
    monkeypatch.setenv("BILLING_SECRET", content)
    ref = "env:BILLING_SECRET" if scheme == "env" else f"file:{tmp_path}/hook"
    problem = tenants_file.problem(changed("env:BILLING_SECRET", ref))
    assert (problem.path, problem.line) == ("tenants.acme.endpoints.billing.secret", 23)
    assert problem.message.startswith(f"{ref} does not contain valid webhook secrets: each must")
    assert content.strip()[6:] not in str(problem) or not content.strip()[6:]


def test_a_reference_to_a_file_that_is_no_text_is_refused(
    tenants_file: TenantsFile, tmp_path: Path
) -> None:
    (tmp_path / "hook").write_bytes(b"\xff hush")
    problem = tenants_file.problem(changed("env:BILLING_SECRET", f"file:{tmp_path}/hook"))
    assert problem.path == "tenants.acme.endpoints.billing.secret"
    assert "hush" not in str(problem)


@pytest.mark.parametrize("end", ["", "until 2020-01-01"])
def test_a_secret_that_can_be_read_is_accepted_even_if_it_no_longer_signs(
    tenants_file: TenantsFile, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("BILLING_SECRET", f"whsec_{'a' * 32} {end}")
    tenants_file.config(GOOD)


def test_a_reference_that_only_the_upkeep_worker_can_read_is_accepted(
    tenants_file: TenantsFile,
) -> None:
    tenants_file.config(changed("env:BILLING_SECRET", "file:/run/secrets/of-the-upkeep-worker"))


REFUSED_URLS = {
    "an odd port": ("https://billing.example.com:8080/", "port 443 or 8443"),
    "user info": ("https://user:hush@billing.example.com/", "remove the user name"),
    "an address": ("https://93.184.215.14/", "a full DNS name"),
    "a hexadecimal address": ("https://0x5db8d70e/", "a full DNS name"),
    "an address of IPv6": ("https://[2606:2800:21f:cb07::1]/", "a full DNS name"),
    "too long": (f"https://billing.example.com/{'a' * 2_048}", "at most 2,048 characters"),
    "http": ("http://billing.example.com/", "write https://"),
}


@pytest.mark.parametrize(("url", "words"), REFUSED_URLS.values(), ids=REFUSED_URLS)
def test_an_endpoints_url_that_is_refused_is_named_with_its_line_and_the_correction(
    tenants_file: TenantsFile, url: str, words: str
) -> None:
    problem = tenants_file.problem(changed("https://billing.example.com/hooks", url))
    assert (problem.path, problem.line) == ("tenants.acme.endpoints.billing.url", 22)
    assert words in problem.message
    assert url not in str(problem)


def test_development_accepts_a_webhook_to_this_machine(
    tenants_file: TenantsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_DEVELOPMENT", "true")
    text = GOOD.replace("https://billing.example.com", "http://127.0.0.1:8000")
    tenants_file.config(text)


def test_a_table_that_is_defined_twice_is_refused_with_its_line(tenants_file: TenantsFile) -> None:
    for again in ("[tenants.acme]\n", "[buckets.reports]\n"):
        problem = tenants_file.problem(GOOD + again)
        assert (problem.line, "twice" in problem.message) == (GOOD.count("\n") + 1, True)
        assert problem.hint == "define each table and field once"


@pytest.mark.parametrize(
    "content", [b"[tenants", b"a = 1\na = 2", b"a = '\xff'", b"a = " + b"[" * 2_000]
)
def test_a_file_that_is_not_toml_is_one_problem(tenants_file: TenantsFile, content: bytes) -> None:
    tenants_file.problem(content)


BUCKET = '[buckets.demo]\nbucket = "demo"\nregion = "us-east-1"\n'
TENANT = f'{BUCKET}[tenants.acme]\ntrust = "queue"\n'
POLICY = f'{TENANT}[tenants.acme.allow.demo]\nkinds = ["download"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{BUCKET}post = 1", "this must be true or false, without quotes"),
        ("[buckets]\ndemo = 1", "this must be a table"),
        (f"{TENANT}max_batch = 0", "this must be at least 1"),
        (f"{TENANT}max_waiting = 0", "this must be at least 64"),
        (f"{TENANT}max_waiting = 63", "this must be at least 64"),
        (f"{TENANT}max_waiting_age = 0", "this must be at least 1"),
        (f"{TENANT}max_batch = 1_000_001", "this must be at most 1,000,000"),
        (f'{POLICY}prefixes = ["*"]\nmax_expires_in = "8d"', "this must be at most 7 days"),
        (f'{BUCKET}role_seconds = "5m"', "this must be at least 15 minutes"),
        (f"{TENANT}quotas.upload_bytes.day = 0", "this must be at least 1 byte"),
        (f'{TENANT}max_batch = "10"', "this must be a whole number, without quotes"),
        (f'{BUCKET}addressing = "host"', 'this must be "virtual" or "path"'),
        ('[buckets.demo]\nbucket = "demo"', "this field is required"),
        (f'{BUCKET}profile = ""', "this is too short: the minimum length is 1"),
        (f'{BUCKET}profile = "{"x" * 256}"', "this is too long: the maximum is 255 characters"),
        (f"{BUCKET}owner = 111122223333", 'this must be a string in quotes, like "text"'),
        (f'{POLICY}prefixes = "a/"', 'this must be an array in brackets, like ["a", "b"]'),
    ],
)
def test_an_error_has_a_message_in_the_terms_of_toml(
    tenants_file: TenantsFile, text: str, message: str
) -> None:
    assert tenants_file.problem(text).message == message


def test_a_redirect_that_no_request_could_match_is_an_error_at_its_place(
    tenants_file: TenantsFile,
) -> None:
    redirects = 'redirects = ["https://app.example.com/done/", "https://app.example.com/?next=/"]'
    problem = tenants_file.problem(f'{POLICY}prefixes = ["acme/"]\n{redirects}\n')
    assert problem.path == "tenants.acme.allow.demo.redirects[1]"
    assert problem.message.startswith("a redirect is https://, a host, an optional port")
