"""The parts of the first migration, by topic."""
