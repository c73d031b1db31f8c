"""The cost of recording uses of grants."""
