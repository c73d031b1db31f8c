"""Aborts multipart uploads that no grant uses any more, and gives back their bytes."""
