import ssl
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection

from valetkey.config import load_config
from valetkey.delivery.redis_clients import kombu_address, open_redis
from valetkey.errors import NotConfigured
from valetkey.redis_urls import (
    default_result_url,
    parse_sentinel_url,
    redact_url,
    verify_by_default,
)
from worker.broker.result_store import ResultStore

LOGIN = "sentinel://us%40er:s3cret%2F@h1:26379,h2"
URL = f"{LOGIN}/0?master_name=main"
TLS = f"{URL}&ssl=true&ssl_ca_certs=/ca.pem"
SENTINEL_LOGIN = "sentinel_username=watcher&sentinel_password=s3cret%26"


def test_all_parts_of_a_url_are_read() -> None:
    parsed = parse_sentinel_url(
        verify_by_default(f"{LOGIN},[::1]:7/3?master_name=a&{SENTINEL_LOGIN}")
    )
    assert parsed is not None
    assert parsed.hosts == (("h1", 26379), ("h2", 26379), ("::1", 7))
    assert (parsed.master_name, parsed.database, parsed.tls) == ("a", 3, {})
    assert parsed.login == {"username": "us@er", "password": "s3cret/"}
    assert parsed.sentinel_login == {"username": "watcher", "password": "s3cret&"}
    assert "s3cret" not in repr(parsed)


def test_results_are_in_database_1_of_the_same_servers() -> None:
    assert default_result_url(URL) == f"{LOGIN}/1?master_name=main"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"{LOGIN}/0", "it needs master_name"),
        (f"{LOGIN}/0?master_name=", "it needs master_name"),
        ("sentinel://h1:26379;sentinel://u:s3cret@h2:26379/0", "into one URL, with commas"),
        ("sentinel://h1:s3cret,h2/0?master_name=a", "the address of a sentinel is not valid"),
        ("sentinel://h1:70000/0?master_name=a", "the address of a sentinel is not valid"),
        ("sentinel://h1:0/0?master_name=a", "the address of a sentinel is not valid"),
        ("sentinel://h1,/0?master_name=a", "the address of a sentinel is not valid"),
        ("sentinel:///0?master_name=a", "the address of a sentinel is not valid"),
        ("sentinel://u:s3/cret@h/0?master_name=a", "is not valid|not a database number"),
        (f"{LOGIN}/x?master_name=a", "its path is not a database number"),
        (f"{URL}#s3cret", "its path is not a database number"),
        (f"{URL}&s3cret=1", "a parameter is unknown"),
        (f"{URL}&master_name=b", "master_name is repeated"),
        (f"{URL}&ssl=s3cret", "ssl must be true or false"),
        (f"{URL}&ssl_ca_certs=/ca.pem", "and true with ssl_ parameters"),
        (f"{URL}&ssl=true&ssl_cert_reqs=no", "must be required, optional or none"),
    ],
)
def test_an_invalid_url_is_refused_without_its_secrets(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        verify_by_default(url)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(NotConfigured, match=problem) as refused:
        load_config({"broker_url": url, "tenant": "acme"}, {})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"{URL}&{SENTINEL_LOGIN}",
        f"{URL}&sentinel_password=s3@cret",
        "sentinel://h1:1;sentinel://u:s3cret@h2:2",
        "sentinel://u:s3cret@h1;sentinel://u:s3cret?@h2",
        "sentinel://u:s3cret@h1,u:s3cret?x@h2",
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str) -> None:
    assert "cret" not in redact_url(url)


def test_the_addresses_of_all_sentinels_are_shown() -> None:
    assert redact_url(URL) == "sentinel://h1:26379,h2/0"


@pytest.mark.parametrize(
    ("more", "requires", "checks_host"),
    [
        ("", ssl.CERT_REQUIRED, True),
        ("&ssl_check_hostname=False", ssl.CERT_REQUIRED, False),
        ("&ssl_cert_reqs=none", ssl.CERT_NONE, False),
    ],
)
def test_servers_and_sentinels_are_verified_unless_the_url_says_otherwise(
    more: str, requires: ssl.VerifyMode, *, checks_host: bool
) -> None:
    url = verify_by_default(TLS + more)
    kombu_url, options = kombu_address(url)
    with open_redis(url) as client, Celery(set_as_current=False) as app:
        pool: Any = client.connection_pool
        pools = [pool, ResultStore(app=app, url=url).client.connection_pool]
        pools += [each.connection_pool for each in pool.sentinel_manager.sentinels]
        for made in (each.make_connection() for each in pools):
            assert (made.cert_reqs, made.check_hostname) == (requires, checks_host)
            assert made.ca_certs == "/ca.pem"
    connection: Any = Connection
    for address in kombu_url.split(";"):
        tls = connection(address).ssl
        assert tls.get("ssl_cert_reqs") == requires
        assert tls.get("ssl_check_hostname", True) is (checks_host or requires == ssl.CERT_NONE)
    assert options["sentinel_kwargs"]["ssl_check_hostname"] is checks_host
