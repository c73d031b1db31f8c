"""Python imports this at its start, if PYTHONPATH has this folder: the service's clock is wrong.

VALETKEY_TEST_SKEW_FILE names a file with the seconds by which it is ahead.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))
from worker import clock

_file = Path(os.environ["VALETKEY_TEST_SKEW_FILE"])
clock.now = lambda: datetime.now(UTC) + timedelta(seconds=float(_file.read_text()))
