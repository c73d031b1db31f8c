"""What several features share, and the core does not need."""
