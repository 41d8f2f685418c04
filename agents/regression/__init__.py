"""Agents based on regression models: simple baselines for learned controllers."""
