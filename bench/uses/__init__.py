"""What the uses of grants cost."""
