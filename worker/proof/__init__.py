"""Proves the audit log: signs and publishes checkpoints, proves grants, verifies, prunes."""
