import base64
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

import pytest
import structlog

from valetkey.wire import RELEASE
from worker import logs


@contextmanager
def restored_loggers() -> Iterator[None]:
    """Restore the handlers and levels of all loggers when the block ends."""
    names = (None, *logging.root.manager.loggerDict)
    loggers = [logging.getLogger(name) for name in names]
    saved = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    last_resort = logging.lastResort
    try:
        yield
    finally:
        created = logging.root.manager.loggerDict.keys() - set(names)
        for name in created:
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).setLevel(logging.NOTSET)
        for logger, handlers, level, propagate in saved:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        logging.lastResort = last_resort
        structlog.reset_defaults()


SECRETS = [
    "https://s3.example/k?X-Amz-Credential=AKIA%2F20261124&X-Amz-Signature=5ec2e7",
    "X-Amz-Security-Token=5ec2e7%2F%2B",
    '{"x-amz-signature": "5ec2e7"}',
    "{'x-amz-security-token': '5ec2e7'}",
    "redis://:5ec2e7@127.0.0.1/0",
    "postgresql+psycopg://valetkey:5ec2e7@db/valetkey",
    *("whsec_5ec2e7", "whsk_5ec2e7/+="),
    "b'[[\"eyJhbGciOiJFZDI1NTE5In0.5ec2e7.5ec2e7\"], {}, null]'",
    "eyJhbGciOiJFQ0RILUVTIn0..5ec2e7-_A.5ec2e7.5ec2e7",
    "ewogImFsZyI6ICJFZDI1NTE5IiB9.eyJ2IjoxfQ5ec2e7...",
    '{"kty": "OKP", "crv": "Ed25519", "d": "5ec2e7"}',
    "{'d': '5ec2e7'}",
    "{\"Authorization\": b'AWS4-HMAC-SHA256 Credential=AKIA/aws4_request, Signature=5ec2e7'}",
    "POST / HTTP/1.1\r\nAuthorization: Bearer abc 5ec2e7\r\nHost: a",
    "[(b'Authorization', b'Basic 5ec2e7'), (b'Host', b'a')]",
    "Signature:\n5ec2e7",
    "x-amz-security-token:5ec2e7/+=\nhost",
    "b'<Credentials>\\n<SecretAccessKey>\\n5ec2e7/+</SecretAccessKey>'",
    "&lt;SessionToken&gt;5ec2e7&lt;/SessionToken&gt;",
    '{"SecretAccessKey": "5ec2e7", "Token": "5ec2e7"}',
    '"{\\"SecretAccessKey\\": \\"5ec2e7\\"}"',
    "%7B%22SecretAccessKey%22%3A%225ec2e7%2F5ec2e7%22%7D",
    "&quot;SessionToken&quot;: &quot;5ec2e7&quot;",
    "Action=AssumeRole&ExternalId=5ec2e7&Version=2011-06-15",
    "external_id='5ec2e7'",
    "url=https%3A%2F%2Fs3%2Fk%3FX-Amz-Signature%3D5ec2e7",
    "aws_secret_access_key = 5ec2e7",
    "PGPASSWORD=5ec2e7 psql",
    "redis://:p@5ec2e7@127.0.0.1/0",
    "redis://valetkey:12345ec2e7@[::1]:6379/0",
    "{'webhook-signature': 'v1,5ec2e7 v1,5ec2e7'}",
    "webhook-signature: v1,5ec2e7+ v1,5ec2e7",
    f"signed with v1,{'5ec2e7' * 7}+=",
    "b'\\neyJhbGciOiJFZDI1NTE5In0.5ec2e7.5ec2e7'",
    "{'body': 'W1siZXlKaGJHY2lPaUpGWkRJMU5URTVJbjA15ec2e7+/5ec2e7==', 'headers': {}}",
    "%7B%22d%22%3A%225ec2e7%22%7D",
    "DETAIL:  Failing row contains (1, 5ec2e7).",
]
VALUES = [
    {"SecretAccessKey": "5ec2e7"},
    {"batch": [{"d": "5ec2e7"}]},
    [("Authorization", "Bearer 5ec2e7")],
    b'{"SessionToken": "5ec2e7"}',
    {"body": b"ExternalId=5ec2e7&Version=1"},
    ValueError("redis://:5ec2e7@127.0.0.1/0"),
    {"causes": [KeyError({"password": "5ec2e7"})]},
]
HOSTILE = [
    *("A", " ", "'", "\\", "://a:", "://u:a@", "secret", "secret_access_", "token: \\n", "token='"),
    *('token=\\"', "eyJ-", "eyJhbGciOi.", "'d'", "d':", "%25", "v1,", "whsec_", "a@", "<token>"),
    *("Failing row contains ", "'Authorization' ", "authorization:\\", "&quot;", "token=%27"),
    *(":a@a", "://1", "%2527", "='", "b\\'", "token ", "token&gt;", "v1a,AAAA", "\\\\\n ", "Row ("),
]


def assert_linear(build: Callable[[int], str]) -> None:
    """Scrub a text and one that is eight times as long, for which quadratic time is 64 times."""

    def seconds(size: int) -> float:
        text = build(size)
        begin = time.process_time()
        logs.scrub(text)
        return time.process_time() - begin

    # 0.1 s is for a machine that is busy. Quadratic time would be minutes.
    assert seconds(50_000) < 24 * seconds(6_250) + 0.1


Lines = Callable[[], list[dict[str, object]]]


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """A function that returns what the service has logged since the last call."""
    with restored_loggers():
        yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("text", SECRETS)
def test_text_that_is_scrubbed_again_stays_the_same(text: str) -> None:
    assert logs.scrub(logs.scrub(text)) == logs.scrub(text)


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_in_a_quoted_text_is_replaced(text: str) -> None:
    for quoted in (repr({"problem": [text]}), json.dumps([text]), repr(text.encode())):
        assert "5ec2e7" not in logs.scrub(quoted)
        assert "5ec2e7" not in logs.scrub(repr([quoted]))


def test_a_secret_that_contains_a_quote_is_replaced() -> None:
    assert logs.scrub("{'password': 'a \\'5ec2e7', 'n': 1}") == "{'password': [hidden], 'n': 1}"


def test_a_row_of_a_database_is_replaced() -> None:
    assert logs.scrub('Row (1, "5ec2e7")') == "Row [hidden]"


@pytest.mark.parametrize(
    "text",
    [
        "batch 0199 of acme: 3 issued, key acme/eye.pdf, see https://example.com/path.eyJ",
        "no credentials of AWS profile 'default' for arn:aws:iam::1:role/r: AccessDenied",
        "POST http://127.0.0.1:43863/hook, then https://[::1]:8443",
        "no token, no password and no signature in the message: signature_invalid",
    ],
)
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    assert logs.scrub(text) == text


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("start", ["", "password", "token:", "token='", "'d': ", "://u:"])
def test_scrubbing_a_hostile_text_takes_linear_time(unit: str, start: str) -> None:
    assert_linear(lambda size: start + unit * (size // len(unit)))


@pytest.mark.parametrize("text", SECRETS)
def test_no_message_field_or_traceback_of_a_log_line_shows_a_secret(
    text: str, log_lines: Lines
) -> None:
    logs.configure_logging()
    log = structlog.get_logger()
    log.warning("ours", problem=text)
    logging.getLogger("kombu").warning("theirs: %s", text)
    log.error("failed", exc_info=ValueError(text))
    lines = log_lines()
    assert [line["level"] for line in lines] == ["warning", "warning", "error"]
    assert "5ec2e7" not in str(lines)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_no_value_of_a_field_shows_a_secret(value: object, log_lines: Lines) -> None:
    logs.configure_logging()
    structlog.get_logger().warning("ours", problem=value)
    (line,) = log_lines()
    assert "[hidden]" in str(line["problem"])
    assert "5ec2e7" not in str(line)


def test_a_field_with_the_name_of_a_secret_is_hidden(log_lines: Lines) -> None:
    logs.configure_logging()
    structlog.get_logger().warning("ours", password="5ec2e7", session_token=b"5ec2e7")
    (line,) = log_lines()
    assert (line["password"], line["session_token"]) == ("[hidden]", "[hidden]")


def test_a_value_without_a_secret_keeps_its_form(log_lines: Lines) -> None:
    logs.configure_logging()
    structlog.get_logger().info("ours", counts={"issued": 3}, keys=["acme/a"], used=1.5, code=None)
    (line,) = log_lines()
    assert line["counts"] == {"issued": 3}
    assert (line["keys"], line["used"], line["code"]) == (["acme/a"], 1.5, None)


def test_no_cause_in_a_traceback_shows_a_secret(log_lines: Lines) -> None:
    logs.configure_logging()
    try:
        try:
            int("SecretAccessKey=5ec2e7")
        except ValueError as error:
            raise ExceptionGroup("both", [error, KeyError("token=5ec2e7")]) from error
    except ExceptionGroup:
        logging.getLogger("kombu").exception("theirs")
    (line,) = log_lines()
    assert str(line["exception"]).count("[hidden]") >= 3
    assert "5ec2e7" not in str(line)


def test_a_record_that_cannot_be_formatted_shows_none_of_its_arguments(log_lines: Lines) -> None:
    logs.configure_logging()
    logging.getLogger("kombu").warning("%d messages", "5ec2e7")
    (line,) = log_lines()
    assert line["event"] == "log_failed"
    assert "5ec2e7" not in str(line)


PROGRAM = """
import atexit, os, sys, threading, warnings
from worker.logs import configure_logging, log_all_output
configure_logging()
log_all_output()
configure_logging()
print("a banner", 1)
sys.stderr.write("two\\nlines, token=5ec2e7\\n")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
if os.fork() == 0:
    raise KeyError
os.wait()
raise LookupError("at last")
"""


def test_whatever_a_process_and_its_children_print_is_a_line_of_json_with_their_name() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    errors = [line["exception"].splitlines()[-1] for line in lines if "exception" in line]
    assert errors == ["ZeroDivisionError: division by zero", "KeyError", "LookupError: at last"]
    assert [line["event"] for line in lines[:2]] == ["a banner 1", "two\nlines, token=[hidden]"]
    assert "UserWarning: old" in lines[2]["event"]
    assert {(line["host"], line["release"]) for line in lines} == {(socket.gethostname(), RELEASE)}
    assert len({line["pid"] for line in lines}) == 2
    assert (result.stdout, result.returncode) == ("", 1)


def test_a_printed_secret_is_hidden_in_all_its_lines(log_lines: Lines) -> None:
    logs.configure_logging()
    logs._PrintedLines().write(f"private_key=\n{'A' * 64}\n5ec2e7\n")
    (line,) = log_lines()
    assert line["event"] == "private_key=\n[hidden]"


def test_printing_without_line_breaks_takes_little_time_and_memory(log_lines: Lines) -> None:
    logs.configure_logging()
    stream, start = logs._PrintedLines(), time.process_time()
    for _ in range(100_000):
        stream.write("." * 10)
    assert time.process_time() - start < 2
    stream.write("\n")
    printed = [str(line["event"]) for line in log_lines()]
    assert "".join(printed) == "." * 1_000_000
    assert max(map(len, printed)) < 100_000


@pytest.mark.parametrize("name", logs.MIN_LEVELS)
@pytest.mark.parametrize("child", ["", ".parsers"])
def test_a_log_at_debug_has_no_debug_record_of_a_library_that_sees_secrets(
    name: str, child: str, log_lines: Lines
) -> None:
    logger = logging.getLogger(name + child)
    logger.setLevel(logging.DEBUG)  # before logging is configured
    logger.addHandler(logging.StreamHandler())
    logs.configure_logging(logging.DEBUG)
    logger.debug("<SecretAccessKey>5ec2e7</SecretAccessKey>")
    logger.setLevel(1)  # afterwards
    logger.debug("Signature:\n%s", "5ec2e7")
    assert log_lines() == []
    logger.warning("seen")
    assert [line["event"] for line in log_lines()] == ["seen"]


def test_a_log_at_debug_has_debug_records_of_other_loggers(log_lines: Lines) -> None:
    logs.configure_logging(logging.DEBUG)
    names = ["worker.tasks", "celery.bootsteps", "httpxx"]
    for name in names:
        logging.getLogger(name).debug(name)
    assert [line["event"] for line in log_lines()] == names


def test_a_logger_that_neither_propagates_nor_has_a_handler_writes_scrubbed_json(
    log_lines: Lines,
) -> None:
    logs.configure_logging()
    logger = logging.getLogger("multiprocessing")  # of Celery's processes
    logger.propagate = False
    logger.warning("Process died: %s", "redis://:5ec2e7@127.0.0.1/0")
    (line,) = log_lines()
    assert line["event"] == "Process died: redis://:[hidden]@127.0.0.1/0"


@pytest.mark.usefixtures("log_lines")
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_no_statement_of_the_database_is_logged(level: int) -> None:
    logs.configure_logging(level)
    assert not logging.getLogger("sqlalchemy.engine.Engine").isEnabledFor(logging.INFO)


# Base64 of several lines, as `base64.encodebytes` and e-mails write it.
HEX = [sha256(bytes([number])).hexdigest() for number in range(4)]
CONTENTS = {
    "an object": json.dumps({"keys": HEX}),
    "an indented object": json.dumps({"keys": HEX}, indent=1),
    "a message body": json.dumps([["eyJhbGciOiJFZDI1NTE5In0.e30." + "".join(HEX)], {}, None]),
}


def quoted(text: str) -> list[str]:
    """Return a text as it is and as others quote it."""
    return [text, repr(text), json.dumps([text]), repr([text.encode()]), json.dumps(repr(text))]


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n  "], ids=repr)
@pytest.mark.parametrize("start", ["", "body: ", "token=", "Authorization: Bearer ", '{"token": "'])
def test_no_line_of_wrapped_base64_is_shown(content: str, end: str, start: str) -> None:
    lines = base64.encodebytes(content.encode()).decode().split()
    assert len(lines) >= 4
    for text in quoted(start + end.join(lines) + end):
        scrubbed = logs.scrub(text)
        assert [line for line in lines if line in scrubbed] == []
        assert logs.scrub(scrubbed) == scrubbed


def test_the_line_after_wrapped_base64_is_shown() -> None:
    text = f"body: eyJ{'A' * 73}\nQUFB\nthe next line"
    assert logs.scrub(text) == "body: [hidden]\nthe next line"


@pytest.mark.parametrize("cut", ["... (512b)", "…", " of a message"])
def test_the_last_line_of_wrapped_base64_is_hidden_before_a_text(cut: str) -> None:
    text = f"body: eyJ{'A' * 73}\n5ec2e7"
    assert "5ec2e7" not in logs.scrub(text + cut)


@pytest.mark.parametrize("start", ["eyJ", "token=eyJ", "Authorization: Bearer eyJ"])
@pytest.mark.parametrize(
    "after",
    ["password=5ec2e7", "token = 5ec2e7", "Failing row contains (1, 5ec2e7)", "whsec_5ec2e7"],
)
def test_a_secret_in_the_line_after_base64_is_hidden(start: str, after: str) -> None:
    for text in quoted(f"{start}{'A' * 73}\n{after}"):
        assert "5ec2e7" not in logs.scrub(text)


@pytest.mark.parametrize("unit", ["A" * 60 + "\n", "A" * 60 + "\\n", "A" * 60 + "\n" + " " * 60])
@pytest.mark.parametrize("start", ["", "eyJ", "token: eyJ", "cookie: ", "token='"])
def test_scrubbing_many_lines_takes_linear_time(unit: str, start: str) -> None:
    assert_linear(lambda size: start + unit * (size // len(unit)) + "=")
