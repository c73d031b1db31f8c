"""Messages for errors in tenants.toml: those that pydantic itself finds, and those of redirects."""

import pytest

from tests.support.builders.tenants_files import TenantsFile

BUCKET = '[buckets.demo]\nbucket = "demo"\nregion = "us-east-1"\n'
TENANT = f'{BUCKET}[tenants.acme]\ntrust = "queue"\n'
POLICY = f'{TENANT}[tenants.acme.allow.demo]\nkinds = ["download"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{BUCKET}post = 1", "this must be true or false, without quotes"),
        ("buckets = 1", "this must be a table"),
        ("[buckets]\ndemo = 1", "this must be a table"),
        (f"{TENANT}quotas = 1", "this must be a table"),
        (f"{TENANT}quota = {{}}", "no such field"),
        (f"{TENANT}max_batch = 0", "this must be at least 1"),
        (f"{TENANT}max_batch = 1_000_001", "this must be at most 1,000,000"),
        (f'{POLICY}prefixes = ["*"]\nmax_expires_in = "8d"', "this must be at most 7 days"),
        (f'{POLICY}prefixes = ["*"]\nmax_size = 0', "this must be at least 1 byte"),
        (f'{BUCKET}role_seconds = "5m"', "this must be at least 15 minutes"),
        (f"{TENANT}quotas.upload_bytes.day = 0", "this must be at least 1 byte"),
        (f"{TENANT}quotas.grants.day = {{ limit = 0 }}", "this must be at least 1"),
        (f'{TENANT}max_batch = "10"', "this must be a whole number, without quotes"),
        (f'{BUCKET}addressing = "host"', 'this must be "virtual" or "path"'),
        ('[buckets.demo]\nbucket = "demo"', "this field is required"),
        (f'{BUCKET}profile = ""', "this is too short: the minimum length is 1"),
        (
            f'{BUCKET}profile = "{"x" * 256}"',
            "this is too long: the maximum is 255 characters",
        ),
        (f"{BUCKET}owner = 111122223333", 'this must be a string in quotes, like "text"'),
        (
            f'{POLICY}prefixes = "acme/"',
            'this must be an array in brackets, like ["a", "b"]',
        ),
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
