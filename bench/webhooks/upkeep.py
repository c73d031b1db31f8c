"""The service's upkeep worker, which trusts no other certificate authority than a benchmark's.

The argument is the file with the authority's certificate.
"""

import sys

import certifi

from worker.celery_worker import main

if __name__ == "__main__":
    certifi.where = lambda: sys.argv[1]
    sys.exit(main("upkeep", "WARNING"))
