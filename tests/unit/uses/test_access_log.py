"""Lines of access logs, in the formats that AWS and Ceph document."""

import json
from datetime import UTC, datetime
from time import process_time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.uses.access_logs import GRANT_ID, QUERY, aws_line, rgw_line
from worker.shared.reported_values import MAX_SIZE
from worker.uses.access_log import MAX_LINE_BYTES, is_log_line, read_line
from worker.uses.use_reports import UseReport

SIGNED_QUERY = QUERY.format(GRANT_ID)


def report_of(line: bytes) -> UseReport:
    report = read_line(line)
    assert isinstance(report, UseReport), report
    return report


def rgw_entry(**changes: object) -> bytes:
    return json.dumps(json.loads(rgw_line()) | changes).encode()


def test_a_signed_get_with_a_grant_id_is_a_download() -> None:
    assert read_line(aws_line()) == UseReport(
        event="downloaded",
        source="log",
        bucket="valetkey-demo",
        object_key="acme/a.pdf",
        grant_id=GRANT_ID,
        occurred_at=datetime(2026, 11, 24, 12, 31, 7, tzinfo=UTC),
        size=1234,
        request_id="3E57427F3EXAMPLE",
        remote_address="192.0.2.3",
        user_agent="curl/8.5",
    )


def test_the_operations_log_of_rgw_tells_the_same() -> None:
    assert report_of(rgw_line()) == report_of(aws_line())._replace(request_id="tx00000example")


def test_a_line_of_rgw_reef_has_neither_the_key_nor_on_its_sqlite_backend_an_id() -> None:
    # As Ceph RGW 18.2.7 wrote it, but for the parameters that set the response's headers.
    line = (
        b'{"bucket":"valetkey-demo","time":"2026-11-27T12:42:47.028114Z",'
        b'"time_local":"2026-11-27T12:42:47.028114+0000","remote_addr":"127.0.0.1",'
        b'"object_owner":"probe","user":"probe","operation":"get_obj",'
        b'"uri":"GET /valetkey-demo/acme/a%20b%2Bc%2520%C3%BC%26%3D%3F.pdf'
        b"?x-grant-id=0199a000-0000-7000-8000-000000000001.0&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        b"&X-Amz-Credential=AKIARGWTEST000000001%2F20261127%2Fus-east-1%2Fs3%2Faws4_request"
        b"&X-Amz-Date=20261127T124246Z&X-Amz-Expires=300&X-Amz-SignedHeaders=host"
        b'&X-Amz-Signature=7beb3a33 HTTP/1.1","http_status":"200","error_code":"",'
        b'"bytes_sent":1234,"bytes_received":0,"object_size":1234,"total_time":0,'
        b'"user_agent":"curl/8.5","referrer":"\xff\xfe\\"}","trans_id":"",'
        b'"authentication_type":"Local","access_key_id":"AKIARGWTEST000000001",'
        b'"temp_url":false}\n'
    )
    assert is_log_line(line)
    assert read_line(line) == UseReport(
        event="downloaded",
        source="log",
        bucket="valetkey-demo",
        object_key="acme/a b+c%20ü&=?.pdf",
        grant_id=GRANT_ID,
        occurred_at=datetime(2026, 11, 27, 12, 42, 47, 28_114, tzinfo=UTC),
        size=1234,
        remote_address="127.0.0.1",
        user_agent="curl/8.5",
        access_keys=frozenset({"AKIARGWTEST000000001"}),
    )


def test_the_key_that_rgw_logs_tells_whether_the_path_begins_with_the_bucket() -> None:
    for key in ("a.pdf", "valetkey-demo/a.pdf"):
        uri = f"GET /valetkey-demo/a.pdf?{SIGNED_QUERY} HTTP/1.1"
        assert report_of(rgw_entry(object=key, uri=uri)).object_key == key


def test_a_signature_in_the_headers_is_not_hidden_by_another_in_the_query() -> None:
    # RGW 18.2.7 serves the request, and logs the key of the headers.
    query = (
        f"{SIGNED_QUERY}&X-Amz-Credential=AKIDEXAMPLE%2F20261124%2Fus-east-1%2Fs3%2Faws4_request"
    )
    uri = f"GET /valetkey-demo/acme/a.pdf?{query} HTTP/1.1"
    report = report_of(rgw_entry(uri=uri, access_key_id="AKIDOTHER"))
    assert report.access_keys == {"AKIDEXAMPLE", "AKIDOTHER"}
    assert report_of(rgw_entry(uri=uri)).access_keys == {"AKIDEXAMPLE"}


def test_the_bucket_of_a_tenant_of_rgw_is_known_by_its_name() -> None:
    assert report_of(rgw_entry(bucket="acme/valetkey-demo")).bucket == "valetkey-demo"


@pytest.mark.parametrize("key", ["acme/a b.pdf", "acme/ü+ö.pdf", "acme/100%.pdf", "acme/%20.pdf"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("host_has_bucket", [True, False])
def test_a_key_is_read_as_it_was_requested(key: str, times: int, *, host_has_bucket: bool) -> None:
    logged = quote(key) if times == 1 else quote(quote(key))
    path = quote(key) if host_has_bucket else f"valetkey-demo/{quote(key)}"
    assert report_of(aws_line(key=logged, path=path)).object_key == key


OTHER_SHAPES: tuple[object, ...] = (None, [], {}, 1.5)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (aws_line(operation="REST.PUT.OBJECT"), "other"),
        (aws_line(query="x-id=GetObject"), "other"),
        (aws_line(status="403"), "failed"),
        (aws_line(auth="-", query=f"x-grant-id={GRANT_ID}"), "unsigned"),
        (aws_line(auth="AuthHeader", query=f"x-grant-id={GRANT_ID}"), "unsigned"),
        (aws_line(auth="-", query=SIGNED_QUERY), "unsigned"),
        (aws_line(auth="-", agent='x" - h s c QueryString ', query=SIGNED_QUERY), "unsigned"),
        (rgw_entry(user="anonymous"), "unsigned"),
        (aws_line(time="32/Nov/2026:12:31:07 +0000"), "malformed"),
        *((aws_line(sent=size), "malformed") for size in ("9" * 30, str(MAX_SIZE + 1), "-1")),
        (aws_line(agent="x" * MAX_LINE_BYTES), "malformed"),
        (b'{"x-grant-id=":' + b"[" * 60_000, "malformed"),
        *((rgw_entry(remote_addr=value), "malformed") for value in OTHER_SHAPES),
        *(
            (rgw_entry(bytes_sent=size), "malformed")
            for size in (-1, 10**30, True, "1_000", " 1", "\u0661")
        ),
    ],
)
def test_a_line_that_is_no_download_has_a_reason(line: bytes, reason: str) -> None:
    assert read_line(line) == reason


@pytest.mark.parametrize(
    ("field", "value", "size"),
    [
        pytest.param("status", "206", 1234, id="part of an object"),
        pytest.param("sent", "-", 0, id="an empty object"),
    ],
)
def test_the_bytes_of_a_download_are_those_that_were_sent(
    field: str, value: str, size: int
) -> None:
    assert report_of(aws_line(**{field: value})).size == size


ENCODED_NAMES = ("x%2Dgrant-id", "x%2dgrant%2Did", "%78-grant-id", "x-gran%74-id")
# Storage leaves all signatures out of what it verifies, also a second one.
SECOND_SIGNATURE = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=01&X-Amz-Signature={}&x-grant-id=" + GRANT_ID
)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(aws_line().replace(b' "-" ', b' "a"b" '), id="a quote in the referrer"),
        pytest.param(
            aws_line(query=QUERY.format(GRANT_ID.replace("a", "%61"))), id="an encoded value"
        ),
        *(aws_line(query=SIGNED_QUERY.replace("x-grant-id", name)) for name in ENCODED_NAMES),
        *(aws_line(query=SECOND_SIGNATURE.format(end)) for end in ("#", "\u00a0", '"', "\u2028")),
    ],
)
def test_nothing_in_a_line_hides_a_download(line: bytes) -> None:
    assert report_of(line) == report_of(aws_line())


@given(st.integers(min_value=0, max_value=len(aws_line())))
def test_a_line_that_is_cut_off_tells_of_this_download_or_of_none(length: int) -> None:
    report = read_line(aws_line()[:length])
    if isinstance(report, UseReport):
        whole = report_of(aws_line())
        assert report._replace(user_agent=None) == whole._replace(user_agent=None)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(before: bytes, after: bytes) -> None:
    read_line(before + b"x-grant-id=" + after)
    read_line(b'{"uri":"' + before + b"x-grant-id=" + after)


def test_characters_that_no_database_stores_are_replaced() -> None:
    entry = rgw_entry(user_agent="a\0b\ud800", trans_id="\udfff", remote_addr="\0")
    report = report_of(entry)
    assert (report.user_agent, report.request_id) == ("a\N{REPLACEMENT CHARACTER}b?", "?")
    assert report.remote_address == "\N{REPLACEMENT CHARACTER}"
    assert report_of(aws_line(agent="a\0b")).user_agent == "a\N{REPLACEMENT CHARACTER}b"


def test_a_key_that_begins_with_a_slash_is_read() -> None:
    assert report_of(aws_line(key="/[acme]/a.pdf")).object_key == "/[acme]/a.pdf"


def test_a_url_with_a_host_hides_no_download() -> None:
    line = aws_line(key=quote(quote("acme/a b.pdf")), path="acme/a%20b.pdf")
    whole = line.replace(b"GET /", b"GET https://valetkey-demo.s3.amazonaws.com/")
    assert report_of(whole).object_key == "acme/a b.pdf"


def test_a_url_in_a_key_stays_a_part_of_it() -> None:
    key = "crawl/https://example.com/a.pdf"
    assert report_of(aws_line(key=quote(quote(key)), path=key)).object_key == key


HOSTILE = ["a", "a:", "://", "%25", "/", "&", "=", '"', '" ', "a/"]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("place", [b"/acme/a.pdf", b"curl/8.5", b"acme/a.pdf"], ids=str)
def test_a_hostile_line_takes_time_in_proportion_to_its_length(unit: str, place: bytes) -> None:
    def seconds(size: int) -> float:
        line = aws_line().replace(place, unit.encode() * (size // len(unit)), 1)
        start = process_time()
        read_line(line)
        return process_time() - start

    # Quadratic time would be 16 times as long; 0.1 s is for a machine that is busy.
    assert seconds(60_000) < 8 * seconds(15_000) + 0.1


def test_a_format_without_the_field_of_the_authentication_asks_the_query() -> None:
    short = aws_line().partition(b" - s9lz")[0]
    assert report_of(short).user_agent == "curl/8.5"
    assert read_line(short.replace(b"X-Amz-Algorithm", b"X-Other")) == "unsigned"


def test_a_request_without_an_id_is_not_identified_by_it() -> None:
    assert report_of(aws_line(request_id="-")).request_id is None
    assert report_of(rgw_entry(trans_id="")).request_id is None
