"""Refuses webhooks to addresses that could belong to the service's own network.

`ipaddress.is_global` is not sufficient: it accepts NAT64, 6to4, IPv4-compatible and site-local
addresses, which can all lead to internal hosts. This module therefore lists every denied network,
and allows IPv6 only inside 2000::/3, the one block that IANA assigns for global unicast.

Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries; for 168.63.129.16, "What is IP
address 168.63.129.16?", Microsoft Azure documentation.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address

GLOBAL_UNICAST = IPv6Network("2000::/3")
LOOPBACK = "loopback"

# The first match gives the reason, so a network comes before any larger one that contains it.
_DENIED: tuple[tuple[IPv4Network | IPv6Network, str], ...] = tuple(
    (ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", LOOPBACK),
        ("168.63.129.16/32", "Azure host"),
        ("169.254.0.0/16", "link-local or instance metadata"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved or broadcast"),
        ("::/128", "unspecified"),
        ("::1/128", LOOPBACK),
        ("::/96", "IPv4-compatible"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated (SIIT)"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discard"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "unique local or instance metadata"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)


def denial_reason(address: Address, *, development: bool = False) -> str | None:
    """Return the reason why webhooks to this address are denied, or None if they are allowed.

    With development, the loopback addresses 127.0.0.0/8 and ::1 are allowed, but no other form of
    them, such as an IPv4-mapped one.
    """
    reason = _find_denied_network(address)
    return None if development and reason == LOOPBACK else reason


def _find_denied_network(address: Address) -> str | None:
    for network, reason in _DENIED:
        if address in network:
            return reason
    if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        return "not global unicast"
    return None
