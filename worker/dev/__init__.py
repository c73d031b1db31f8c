"""Runs the whole service on this machine, for development: `python -m worker dev`."""
