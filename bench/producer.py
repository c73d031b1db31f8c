"""A producer with nothing else in its process: `python -m bench.producer BUCKET LINKS`.

It is told by its environment whom to ask. It streams a batch of that many links, keeps none, and
prints, behind a line that it has begun, how much memory it had in use at its peak, and how long it
took.
"""

import json
import os
import sys
from time import perf_counter

from bench.memory import resident
from valetkey import Client, Grant

_STEP = 10_000  # links between two looks at the memory


def main(bucket: str, links: int) -> None:
    """Ask for the links, and read them as they come."""
    print("asking", flush=True)
    start, peak, granted = perf_counter(), 0.0, 0
    with Client() as client:
        keys = (f"2026/11/u-{number}.pdf" for number in range(links))
        for number, answer in enumerate(client.download_many(bucket, keys, total=links)):
            granted += isinstance(answer, Grant)
            if number % _STEP == 0:
                peak = max(peak, resident(os.getpid()))
    took = perf_counter() - start
    print(json.dumps({"rss_mb": peak, "seconds": took, "granted": granted}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
