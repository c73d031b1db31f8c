"""The capacity of the service: measured costs, a model of larger loads, and scale-out."""
