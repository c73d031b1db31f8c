"""The default URL of results, and the TLS parameters of rediss:// URLs.

For a rediss:// URL without parameters, redis-py verifies the server's certificate, Celery's result
backend refuses the URL, and kombu does not verify. They also spell the parameters differently.
"""

from collections import Counter
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

REDIS_SCHEMES = ("redis", "rediss")
TLS_PARAMETERS = (
    *("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"),
)
"""The parameters that kombu, Celery and redis-py all read from a URL."""

_CERT_REQS = {  # Celery's documentation has the names on the left, redis-py only accepts the others
    "CERT_REQUIRED": "required",
    "CERT_OPTIONAL": "optional",
    "CERT_NONE": "none",
}


def default_result_url(broker_url: str) -> str | None:
    """Return the service's default result store: database 1 of the broker's Redis server.

    Returns None if the broker is not Redis.
    """
    parts = urlsplit(broker_url)
    return parts._replace(path="/1").geturl() if parts.scheme in REDIS_SCHEMES else None


def verify_by_default(url: str) -> str:
    """Return a URL for which kombu, Celery and redis-py all verify the server of a rediss:// URL.

    Certificate and host name are verified, unless the URL itself says `ssl_cert_reqs=none` or
    `ssl_check_hostname=false`. Other URLs are returned unchanged. Raises ValueError, without the
    URL in its text, if the libraries would read the parameters differently.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # do not chain it: its text may contain a part of the password
        raise ValueError("this is not a URL; percent-encode special characters") from None
    if ";" in url and "rediss:" in url.lower():  # kombu would read several URLs
        raise ValueError("a rediss:// URL names one server; percent-encode ; as %3B")
    if parts.scheme == "rediss":
        return parts._replace(query=_tls_query(parts)).geturl()
    if parts.scheme == "redis" and _tls_parameters(parts):
        raise ValueError("parameters that begin with ssl_ need a rediss:// URL")
    return url


def _tls_query(parts: SplitResult) -> str:
    tls = _tls_parameters(parts)
    repeated = [name for name, count in Counter(name for name, _ in tls).items() if count > 1]
    unknown = [name for name, _ in tls if name not in TLS_PARAMETERS]
    if repeated or unknown:
        raise ValueError(
            f"its parameter {(repeated or unknown)[0]} is repeated or unknown; the parameters for "
            f"TLS are {', '.join(TLS_PARAMETERS)}"
        )
    parameters = {"ssl_cert_reqs": "required"} | dict(tls)
    _normalize(parameters)
    others = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair not in tls]
    return urlencode([*others, *parameters.items()], quote_via=quote, safe="/")


def _tls_parameters(parts: SplitResult) -> list[tuple[str, str]]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    return [(name, value) for name, value in pairs if name.startswith("ssl_")]


def _normalize(parameters: dict[str, str]) -> None:
    cert_reqs = parameters["ssl_cert_reqs"]
    parameters["ssl_cert_reqs"] = _CERT_REQS.get(cert_reqs, cert_reqs)
    if parameters["ssl_cert_reqs"] not in _CERT_REQS.values():
        raise ValueError("its parameter ssl_cert_reqs must be required, optional or none")
    if "ssl_check_hostname" in parameters:
        parameters["ssl_check_hostname"] = parameters["ssl_check_hostname"].lower()
        if parameters["ssl_check_hostname"] not in {"true", "false"}:
            raise ValueError("its parameter ssl_check_hostname must be true or false")
