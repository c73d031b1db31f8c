"""Cancels batches for their producers."""
