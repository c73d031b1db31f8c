"""Rows of revocations, and the live grants that they end."""
