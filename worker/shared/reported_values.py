"""What storage may report: sizes, times and texts that can be true and stored."""

import re
from datetime import timedelta

MAX_SIZE = 2**53
"""The largest size in bytes that a report may have: JSON carries no larger number exactly."""

MAX_AHEAD = timedelta(hours=1)
"""The longest time by which a report may be ahead of the service's clock."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Return true if the database can store a text.

    PostgreSQL stores no NUL. JSON can contain half of a surrogate pair, which is no UTF-8.
    """
    return "\0" not in text and (text.isascii() or not _SURROGATES.search(text))


CLOCK_SKEW = timedelta(seconds=10)
"""The largest difference between the clocks of storage and of a worker that counts as none."""
