"""boto3's side of signing: credentials with their real end, and hosts that are boto3's own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import RefreshableCredentials

from worker.adapters.s3 import BETWEEN_LOOKS, S3
