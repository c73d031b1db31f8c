import ssl
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection
from redis import connection

from valetkey.redis_urls import verify_by_default

LOGIN = "rediss://u:s3cret@h:6380/0"
AUTHORITY = "ssl_ca_certs=/etc/ca.pem"
CERT_REQS = {"required": ssl.CERT_REQUIRED, "none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL}


@pytest.mark.parametrize(
    ("url", "query"),
    [
        (LOGIN, "ssl_cert_reqs=required"),
        (f"{LOGIN}?{AUTHORITY}", f"ssl_cert_reqs=required&{AUTHORITY}"),
        (f"{LOGIN}?ssl_cert_reqs=none", "ssl_cert_reqs=none"),
        (f"{LOGIN}?ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs=none"),
        (f"{LOGIN}?ssl_cert_reqs=CERT_REQUIRED", "ssl_cert_reqs=required"),
        (f"{LOGIN}?ssl_cert_reqs=optional", "ssl_cert_reqs=optional"),
        (
            f"{LOGIN}?ssl_check_hostname=False",
            "ssl_cert_reqs=required&ssl_check_hostname=false",
        ),
        (f"{LOGIN}?health_check_interval=5", "health_check_interval=5&ssl_cert_reqs=required"),
    ],
)
def test_a_server_is_verified_unless_the_url_says_otherwise(url: str, query: str) -> None:
    assert verify_by_default(url) == f"{LOGIN}?{query}"


@pytest.mark.parametrize(
    "url", ["redis://u:a;b@h/0", "amqps://h//", "unix:///redis", "REDIS://h", "", "redis://h?db=3"]
)
def test_other_urls_are_unchanged(url: str) -> None:
    assert verify_by_default(url) == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"{LOGIN}?ssl_cert_reqs=", "must be required, optional or none"),
        (f"{LOGIN}?ssl_cert_reqs=required&ssl_cert_reqs=none", "ssl_cert_reqs is repeated"),
        (f"{LOGIN}?ssl_cert_req=none", "ssl_cert_req is repeated or unknown"),
        (f"{LOGIN}?ssl_check_hostname=0", "must be true or false"),
        (f"redis://u:s3cret@h/0?{AUTHORITY}", "need a rediss:// URL"),
        ("redis://u:s3cret@h/0?master_name=a", "needs a sentinel:// URL"),
        ("rediss://u:s3cret@h/0?master_name=a", "needs a sentinel:// URL"),
        (f"{LOGIN};rediss://u:s3cret@other/0", "names one server"),
        (f"redis://u:s3cret@h/0;{LOGIN}", "names one server"),
        ("rediss://u:s3cret[@h", "not a URL"),
    ],
)
def test_parameters_that_libraries_read_differently_are_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        verify_by_default(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("cert_reqs", CERT_REQS)
@pytest.mark.parametrize("checks_name", [True, False])
def test_kombu_celery_and_redis_py_read_the_same(cert_reqs: str, checks_name: bool) -> None:  # noqa: FBT001 - a parameter
    url = verify_by_default(
        f"{LOGIN}?ssl_cert_reqs={cert_reqs}&{AUTHORITY}&ssl_check_hostname={checks_name}"
    )
    backend = Celery("test", backend=url, set_as_current=False).backend
    parse_url: Any = connection.parse_url
    broker: Any = Connection
    options: list[dict[str, Any]] = [parse_url(url), broker(url).ssl, backend.connparams]
    read = [
        (
            CERT_REQS.get(option["ssl_cert_reqs"], option["ssl_cert_reqs"]),
            option["ssl_ca_certs"],
            option["ssl_check_hostname"],
        )
        for option in options
    ]
    assert read == [(CERT_REQS[cert_reqs], "/etc/ca.pem", checks_name)] * 3
