"""The contract with producers, generated from the messages."""
