"""Reads, checks and applies tenants.toml, and changes single quotas."""
