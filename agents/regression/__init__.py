"""Agents with a regression model, one file each: simple baselines for learned controllers."""
