"""Decides requests: issues grants, signs them again, cancels, and explains."""
