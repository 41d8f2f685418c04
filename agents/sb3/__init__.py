"""Stable-Baselines3 as agents."""
