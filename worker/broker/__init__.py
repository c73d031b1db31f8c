"""The broker: checks messages, shares workers among tenants, and keeps results and dead letters."""
