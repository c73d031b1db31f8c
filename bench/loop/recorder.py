"""Records uses in a process of its own, as one that receives events from storage does.

It reads lines of a grant id, a bucket and an object key from stdin, records that the object was
stored, and writes a line when the use is committed. The environment has the service's settings.
"""

import sys

from worker import clock
from worker.app import job_context
from worker.uses.use_recorder import record_uses
from worker.uses.use_reports import UseReport


def main() -> None:
    """Record one use for each line of stdin."""
    context = job_context()
    for line in sys.stdin:
        grant_id, bucket, key = line.split()
        report = UseReport("stored", "event", bucket, key, grant_id, clock.now(), 5, "etag")
        print(record_uses([report], context).total, flush=True)


if __name__ == "__main__":
    main()
