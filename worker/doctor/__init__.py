"""Checks the service and all that it depends on, and measures it for Prometheus."""
