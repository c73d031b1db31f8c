"""[buckets.NAME] of tenants.toml: a bucket profile, and which of its fields go together."""
