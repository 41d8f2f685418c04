"""Baselines and evolutionary searches, one file each."""
