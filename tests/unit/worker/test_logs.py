import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from worker import logs

SECRETS = [
    "https://s3.example/k?X-Amz-Credential=AKIA%2F20261124&X-Amz-Signature=5ec2e7",
    "X-Amz-Security-Token=5ec2e7%2F%2B",
    '{"x-amz-signature": "5ec2e7"}',
    "{'x-amz-security-token': '5ec2e7'}",
    "redis://:5ec2e7@127.0.0.1/0",
    "postgresql+psycopg://valetkey:5ec2e7@db/valetkey",
    "whsec_5ec2e7",
    "b'[[\"eyJhbGciOiJFZDI1NTE5In0.5ec2e7.5ec2e7\"], {}, null]'",
    "eyJhbGciOiJFQ0RILUVTIn0..5ec2e7-_A.5ec2e7.5ec2e7",
    "ewogImFsZyI6ICJFZDI1NTE5IiB9.eyJ2IjoxfQ5ec2e7...",
    '{"kty": "OKP", "crv": "Ed25519", "d": "5ec2e7"}',
    "{'d': '5ec2e7'}",
]


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the tests' own logging configuration afterwards."""
    root = logging.getLogger()
    saved = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = saved
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_replaced(text: str) -> None:
    assert "5ec2e7" not in logs.scrub(text)


def test_text_without_a_secret_is_unchanged() -> None:
    text = "batch 0199 of acme: 3 issued, key acme/eye.pdf, see https://example.com/path.eyJ"
    assert logs.scrub(text) == text


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("text", SECRETS)
def test_no_message_field_or_traceback_of_a_log_line_shows_a_secret(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure_logging()
    log = structlog.get_logger()
    log.warning("ours", problem=text)
    logging.getLogger("kombu").warning("theirs: %s", text)
    log.error("failed", exc_info=ValueError(text))
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["level"] for line in lines] == ["warning", "warning", "error"]
    assert "5ec2e7" not in "".join(lines)


@pytest.mark.usefixtures("restored_logging")
def test_a_log_at_debug_has_no_records_of_botocore_that_contain_credentials(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure_logging(logging.DEBUG)
    logging.getLogger("botocore.parsers").debug("<SecretAccessKey>5ec2e7</SecretAccessKey>")
    logging.getLogger("botocore.auth").debug("Signature:\n%s", "5ec2e7")
    assert capsys.readouterr().err == ""
