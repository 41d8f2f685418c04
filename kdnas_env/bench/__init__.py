"""A fair race between search strategies over tables of evaluations."""
