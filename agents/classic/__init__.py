"""Baselines and evolutionary searches."""
