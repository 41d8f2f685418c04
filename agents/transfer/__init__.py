"""Agents that carry experience from other tasks to a new one."""
