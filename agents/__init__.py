"""Agents that search: each knows only the Gymnasium API."""
