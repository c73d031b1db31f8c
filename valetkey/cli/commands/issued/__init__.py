"""The commands about grants that were issued: what became of them, and issuing them again."""
