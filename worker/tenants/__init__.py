"""Reads, checks and applies tenants.toml."""
