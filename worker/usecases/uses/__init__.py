"""Records what storage tells about grants, and settles upload slots."""
