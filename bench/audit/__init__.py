"""Measures the audit log: its queries, its exports and checks, and what it costs to write."""
