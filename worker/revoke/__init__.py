"""Takes grants back: plans, does and proves it, and removes what it left in bucket policies."""
