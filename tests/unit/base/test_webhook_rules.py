from datetime import timedelta
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.webhooks.webhook_client import GLOBAL_UNICAST, address_denial_reason
from worker.webhooks.webhook_connection import parse_retry_after

NOW = "Tue, 24 Nov 2026 23:00:00 GMT"


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [
        ("0", timedelta(0)),
        ("120", timedelta(minutes=2)),
        ("999999999", timedelta(seconds=999_999_999)),
        ("Tue, 24 Nov 2026 23:01:30 GMT", timedelta(seconds=90)),
        ("Sat, 01 Jan 0001 00:00:00 GMT", timedelta(0)),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(retry_after: str, delay: timedelta) -> None:
    assert parse_retry_after(retry_after, NOW) == delay


@pytest.mark.parametrize(
    "retry_after",
    [
        *(None, "", "soon", "-1", "1.5", "1_0", "٣", "9" * 5000, "Tue, 24 Nov 2026 23:01:30"),
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999999999",
    ],
)
def test_an_invalid_retry_after_is_ignored(retry_after: str | None) -> None:
    assert parse_retry_after(retry_after, NOW) is None


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_retry_after_date_without_a_date_header_is_ignored(date: str | None) -> None:
    assert parse_retry_after("Tue, 24 Nov 2026 23:01:30 GMT", date) is None


digits = st.text("0123456789", max_size=25)
clock_times = st.tuples(digits, digits, digits).map(":".join)
almost_dates = st.builds(
    "{} {} {} {} {} {}".format,
    st.sampled_from(["Mon,", "Monday,", ""]),
    digits,
    st.sampled_from(["Jan", "Feb", "13"]) | digits,
    digits,
    clock_times | digits,
    st.sampled_from(["GMT", "EST", "", "+0000", "-9999"]) | digits.map("+{}".format),
)
headers = st.text() | st.text("0123456789 :,-+.GMTJanMo") | almost_dates


@given(headers, st.none() | headers | st.just(NOW))
def test_every_header_is_parsed_without_an_error(retry_after: str, date: str | None) -> None:
    delay = parse_retry_after(retry_after, date)
    assert delay is None or delay >= timedelta(0)


DENIED = {
    "this network": ["0.0.0.0", "0.255.255.255"],  # noqa: S104 - nothing binds to it
    "private": [
        *("10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255"),
        *("192.168.0.0", "192.168.255.255"),
    ],
    "carrier-grade NAT": ["100.64.0.0", "100.100.100.200", "100.127.255.255"],
    "loopback": ["127.0.0.1", "127.0.0.53", "127.255.255.255", "::1"],
    "Azure host": ["168.63.129.16"],
    "link-local or instance metadata": ["169.254.0.1", "169.254.169.254", "169.254.170.2"],
    "protocol assignments": ["192.0.0.0", "192.0.0.192", "2001:20::1", "2001:1ff:ffff::1"],
    "documentation": [
        *("192.0.2.1", "198.51.100.1", "203.0.113.255"),
        *("2001:db8::1", "3fff::1", "3fff:fff:ffff::1"),
    ],
    "6to4 relay": ["192.88.99.1"],
    "benchmarking": ["198.18.0.0", "198.19.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff00::", "ff02::1", "ff0e::1"],
    "reserved or broadcast": ["240.0.0.1", "255.255.255.255"],
    "unspecified": ["::"],
    "IPv4-compatible": ["::127.0.0.1", "::8.8.8.8", "::2"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8"],
    "IPv4-translated (SIIT)": ["::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::808:808"],
    "local NAT64": ["64:ff9b:1::1", "64:ff9b:1:ffff::a00:1"],
    "discard": ["100::1"],
    "Teredo": ["2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "6to4": ["2002:7f00:1::", "2002:808:808::1"],
    "segment routing": ["5f00::1"],
    "unique local or instance metadata": ["fc00::1", "fd00:ec2::254", "fdff::1"],
    "link-local": ["fe80::1", "fe80::1%1", "febf::1"],
    "site-local": ["fec0::1", "feff::1"],
    "not global unicast": ["64:ff9b:2::1", "100:0:0:1::1", "4000::1", "::fffe:0:0", "e000::1"],
}

ALLOWED = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.1", "168.63.129.15", "168.63.129.17", "169.253.255.255"),
    *("169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.88.98.255"),
    *("192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *("2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700:4700::1111"),
    *("2a00:1450:4001::1", "3ffe:ffff::1"),
]


DENIED_WITH_REASON = [(text, reason) for reason, texts in DENIED.items() for text in texts]


@pytest.mark.parametrize(("text", "reason"), DENIED_WITH_REASON)
def test_an_address_that_can_be_internal_is_denied_with_its_reason(text: str, reason: str) -> None:
    assert address_denial_reason(ip_address(text)) == reason


@pytest.mark.parametrize("text", ALLOWED)
def test_a_public_address_is_allowed_even_next_to_a_denied_network(text: str) -> None:
    assert address_denial_reason(ip_address(text)) is None


@pytest.mark.parametrize(("text", "reason"), DENIED_WITH_REASON)
def test_development_allows_loopback_and_nothing_else(text: str, reason: str) -> None:
    expected = None if reason == "loopback" else reason
    assert address_denial_reason(ip_address(text), development=True) == expected


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_outside_global_unicast_is_allowed(address: IPv6Address) -> None:
    assert address_denial_reason(address) or address in GLOBAL_UNICAST


@given(st.ip_addresses(network="2000::/3") | st.ip_addresses(v=4))
def test_an_address_that_the_standard_library_calls_private_is_denied(address: IPv6Address) -> None:
    assert address_denial_reason(address) or not address.is_private
