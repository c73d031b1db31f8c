"""The process of `worker run --only events`: `python -m worker.event_intake`."""
