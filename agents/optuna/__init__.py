"""Optuna as an agent."""
