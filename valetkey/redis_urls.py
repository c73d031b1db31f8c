"""The default URL of results, the TLS parameters of rediss:// URLs, and sentinel:// URLs.

For a rediss:// URL without parameters, redis-py verifies the server's certificate, Celery's result
backend refuses the URL, and kombu does not verify. They also spell the parameters differently.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

REDIS_SCHEMES = ("redis", "rediss", "sentinel")
SENTINEL_FORM = "sentinel://USER:PASSWORD@HOST:26379,HOST:26379/0?master_name=NAME"
_SENTINEL_PORT = 26_379
TLS_PARAMETERS = (
    *("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"),
)
"""The parameters that kombu, Celery and redis-py all read from a URL."""
_SENTINEL_PARAMETERS = ("master_name", "sentinel_username", "sentinel_password", "ssl")

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
    `ssl_check_hostname=false`. All parts of a sentinel:// URL with `ssl=true` are verified
    likewise. Other URLs are returned unchanged. Raises ValueError, without the URL in its text, if
    the libraries would read the parameters differently.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # do not chain it: its text may contain a part of the password
        raise ValueError("this is not a URL; percent-encode special characters") from None
    if ";" in url and "rediss:" in url.lower():  # kombu would read several URLs
        raise ValueError("a rediss:// URL names one server; percent-encode ; as %3B")
    if parts.scheme == "sentinel":
        return _sentinel_url(parts)
    if parts.scheme in {"redis", "rediss"} and "master_name" in dict(parse_qsl(parts.query)):
        raise ValueError("its parameter master_name needs a sentinel:// URL")
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


@dataclass(frozen=True)
class SentinelUrl:
    """The content of a sentinel:// URL. The options are those of a redis-py client, as text.

    user_info is that of the URL, percent-encoded. tls is empty without TLS, which is used with the
    sentinels as well as with the servers.
    """

    hosts: tuple[tuple[str, int], ...]
    master_name: str
    database: int
    user_info: str = field(repr=False)
    login: Mapping[str, str] = field(repr=False)
    sentinel_login: Mapping[str, str] = field(repr=False)
    tls: Mapping[str, str]


def parse_sentinel_url(url: str) -> SentinelUrl | None:
    """Parse a URL that verify_by_default() returned; None if it is of one server."""
    if not url.startswith("sentinel:"):
        return None
    parts = urlsplit(url)
    user_info, _, addresses = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    login = {"username": unquote(user), "password": unquote(password)}
    values = dict(parse_qsl(parts.query))
    own = {name: values.get(f"sentinel_{name}", "") for name in login}
    return SentinelUrl(
        hosts=tuple(map(_sentinel_address, addresses.split(","))),
        master_name=values["master_name"],
        database=int(parts.path.strip("/") or 0),
        user_info=user_info,
        login={name: value for name, value in login.items() if value},
        sentinel_login={name: value for name, value in own.items() if value},
        tls=dict(_tls_parameters(parts)),
    )


def _sentinel_address(text: str) -> tuple[str, int]:
    """Parse HOST or HOST:PORT. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    port = _SENTINEL_PORT if parts.port is None else parts.port
    if not parts.hostname or not port or parts.netloc != text:
        raise ValueError
    return parts.hostname, port


def _sentinel_url(parts: SplitResult) -> str:
    """Check a sentinel:// URL, and return it with its TLS parameters. Raises ValueError."""
    if ";" in parts.geturl():  # Celery's form
        raise ValueError(f"write all sentinels into one URL, with commas: {SENTINEL_FORM}")
    try:
        for text in parts.netloc.rpartition("@")[2].split(","):
            _sentinel_address(text)
    except ValueError:  # do not chain it: its text may contain a part of the password
        raise ValueError(
            f"the address of a sentinel is not valid: write {SENTINEL_FORM}; percent-encode "
            "special characters in user and password"
        ) from None
    database = parts.path.strip("/")
    if parts.fragment or (database and not (database.isascii() and database.isdecimal())):
        raise ValueError(f"its path is not a database number: write {SENTINEL_FORM}")
    names = Counter(name for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    known = _SENTINEL_PARAMETERS + TLS_PARAMETERS
    if wrong := [name for name, count in names.items() if count > 1 or name not in known]:
        # Only the name of a known one: others may be a part of a password.
        which = f"{wrong[0]} is repeated" if wrong[0] in known else "is unknown"
        raise ValueError(f"a parameter {which}; its parameters are {', '.join(known)}")
    values = dict(parse_qsl(parts.query))
    if "master_name" not in values:
        raise ValueError(
            "it needs master_name, the name of the primary in sentinel.conf (`sentinel monitor "
            f"NAME`): write {SENTINEL_FORM}"
        )
    is_tls = values.get("ssl", "false").lower()
    if is_tls not in {"true", "false"} or (is_tls == "false" and _tls_parameters(parts)):
        raise ValueError("its parameter ssl must be true or false, and true with ssl_ parameters")
    return parts._replace(query=_tls_query(parts)).geturl() if is_tls == "true" else parts.geturl()


def redact_url(url: str) -> str:
    """Return a URL without its user, password and query, safe to display."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "..."  # without the slashes, a user name looks like a scheme
    address = rest.replace("#", "?").partition("?")[0]
    if "@" in rest[len(address) :]:
        return f"{scheme}://..."  # a password may contain the ? or #, or the query the @
    return f"{scheme}://{address.rpartition('@')[2]}"
