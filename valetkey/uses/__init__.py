"""Requested grants: what became of them, waiting for stored objects, issuing them again."""
