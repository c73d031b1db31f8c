"""The audit log as a Python API."""
