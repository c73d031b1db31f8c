"""Revocations: what they end, the ways to do it, and statements in bucket policies."""
