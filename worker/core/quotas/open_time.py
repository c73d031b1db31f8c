"""The time for which batches accept chunks."""

from datetime import timedelta

MAX_OPEN_TIME = timedelta(days=1)
"""The longest time for which a batch accepts further chunks: the maximum age of a message."""
