from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from valetkey.wire import options
from valetkey.wire.options import http_date
from valetkey.wire.requests import option_names
from valetkey.wire.terms import Kind


@pytest.mark.parametrize(
    ("kind", "documented", "set_by_client"),
    [
        ("download", options.DownloadOptions, set()),
        ("upload", options.UploadOptions, set()),
        ("put", options.PutOptions, set()),
        ("multipart", options.MultipartOptions, {"max_size"}),
        ("parts", options.RequestOptions, {"of"}),
    ],
)
def test_every_term_of_the_wire_is_an_option(
    kind: Kind, documented: Any, set_by_client: set[str]
) -> None:
    assert documented.__annotations__.keys() | set_by_client == option_names(kind) | {"batch_id"}


def test_a_datetime_is_formatted_as_an_http_date() -> None:
    moment = datetime(1994, 11, 6, 9, 49, 37, 999, timezone(timedelta(hours=1)))
    assert http_date(moment) == "Sun, 06 Nov 1994 08:49:37 GMT"  # RFC 9110, 5.6.7
    assert http_date(moment.astimezone(UTC)) == http_date(moment)


def test_a_datetime_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        http_date(datetime(2026, 11, 24))  # noqa: DTZ001 - that is the point
