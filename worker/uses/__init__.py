"""Records the uses of grants that storage reports, and settles upload slots that ended."""
