"""The rows of batches, chunks and grants, of quotas and tenants, and their leaves."""
