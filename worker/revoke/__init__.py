"""Revokes grants: plans, carries out and proves it, and removes expired denials."""
