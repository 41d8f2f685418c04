"""Agents that transfer experience from other tasks to a new task."""
