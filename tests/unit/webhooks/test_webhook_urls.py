import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.webhooks.webhook_urls import UrlViolation, WebhookUrl, parse_webhook_url

ACCEPTED = [
    "https://hooks.example.com/in?token=a%20b",
    "https://example.com:8443/in",
    "https://EXAMPLE.com/In",
    "https://bücher.example/",
    "https://pr--site.example.com/",
    "https://example.com/" + "a" * (2048 - len("https://example.com/")),
]

REFUSED = {
    UrlViolation.LENGTH: ["https://example.com/" + "a" * 2048],
    UrlViolation.CHARACTERS: [
        "https://example.com/ ",
        "https://exam\tple.com/",
        "https://example.com/\u202egpj.exe",
        "https://example.com\\@169.254.169.254/",
    ],
    UrlViolation.SCHEME: ["", "http://example.com/"],
    UrlViolation.USERINFO: [
        "https://user@example.com/",
        "https://user:hush@example.com/",
        "https://@example.com/",
        "https://example.com%2f@evil.example/",
    ],
    UrlViolation.FRAGMENT: ["https://example.com/#"],
    UrlViolation.PORT: [
        "https://example.com:22/",
        "https://example.com:80/",
        "https://example.com:8080/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:٤٤٣/",
    ],
    UrlViolation.HOST: [
        "https://",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://2130706433/",
        "https://127.0.0.1./",
        "https://127%2e0%2e0%2e1/",
        "https://127\u30020\u30020\u30021/",
        "https://\u2460\u2461\u2466.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[fe80::1%25eth0]/",
        "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/",
        "https://[::1]/",
        "https://[v1.x]/",
        "https://[::1/",
        "https://example.com./",
        "https://.example.com/",
        "https://-a.example/",
        "https://a-.example/",
        "https://a_b.example/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 127 + "example/",
        "https://" + "ü" * 64 + ".example/",
        "https://a.℀.example/",
    ],
}

DEVELOPMENT = [
    "http://localhost:8000/in",
    "https://localhost:1/",
    "http://[::1]:8000/",
    "http://example.com/",
]


@pytest.mark.parametrize("url", ACCEPTED)
def test_an_https_url_with_a_dns_name_is_accepted(url: str) -> None:
    assert isinstance(parse_webhook_url(url), WebhookUrl)


@pytest.mark.parametrize(
    ("url", "rule"), [(url, rule) for rule, urls in REFUSED.items() for url in urls]
)
def test_any_other_url_is_refused_with_the_rule_that_it_violates(
    url: str, rule: UrlViolation
) -> None:
    assert parse_webhook_url(url) is rule


@pytest.mark.parametrize("url", DEVELOPMENT)
def test_development_accepts_http_addresses_and_ports(url: str) -> None:
    assert isinstance(parse_webhook_url(url, development=True), WebhookUrl)
    assert isinstance(parse_webhook_url(url), UrlViolation)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://localhost/", "http://user@localhost/", "http://localhost:65536/"),
        *("http://127.1/", "http://[v1.x]/", "http://localhost\\/"),
    ],
)
def test_development_keeps_every_other_rule(url: str) -> None:
    assert isinstance(parse_webhook_url(url, development=True), UrlViolation)


def test_a_unicode_name_is_encoded_once_and_by_idna_2008() -> None:
    assert parse_webhook_url("https://Straße.example/ß?ü") == WebhookUrl(
        "https", "xn--strae-oqa.example", 443, "/ß?ü"
    )


def test_the_host_header_has_the_port_unless_it_is_the_default() -> None:
    for url, authority in {
        "https://a.example:443/": "a.example",
        "https://a.example:8443/": "a.example:8443",
        "http://[::1]:443/": "[::1]:443",
    }.items():
        parsed = parse_webhook_url(url, development=True)
        assert isinstance(parsed, WebhookUrl)
        assert parsed.authority == authority


def test_the_path_and_the_query_stay_out_of_the_repr() -> None:
    assert "hush" not in repr(parse_webhook_url("https://a.example/hush?token=hush"))


@given(st.text(max_size=60), st.booleans())
def test_every_text_is_checked_without_an_error(text: str, development: bool) -> None:  # noqa: FBT001 - drawn
    for url in (text, f"https://{text}", f"https://{text}.example/{text}"):
        parse_webhook_url(url, development=development)
