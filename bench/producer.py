"""A producer in a process of its own: `python -m bench.producer BUCKET LINKS`.

Environment variables configure its client. It requests a batch of LINKS links, reads them as a
stream and keeps none. It prints a line when it starts, then a JSON object with its peak memory in
MB, the seconds taken and the number of links granted.
"""

import json
import os
import sys
from time import perf_counter

from bench.memory import resident_mb
from valetkey import Client, Grant

_SAMPLE_EVERY = 10_000  # links between two samples of the memory in use


def main(bucket: str, links: int) -> None:
    """Request the links, and read them as they arrive."""
    print("started", flush=True)
    start, peak_mb, granted = perf_counter(), 0.0, 0
    with Client() as client:
        keys = (f"2026/11/u-{number}.pdf" for number in range(links))
        for number, item in enumerate(client.download_many(bucket, keys, total=links)):
            granted += isinstance(item, Grant)
            if number % _SAMPLE_EVERY == 0:
                peak_mb = max(peak_mb, resident_mb(os.getpid()))
    seconds = perf_counter() - start
    print(json.dumps({"rss_mb": peak_mb, "seconds": seconds, "granted": granted}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
