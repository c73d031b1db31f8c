"""Shows the quotas of tenants, and changes single ones."""
