"""Evaluators: objects that turn architectures into evaluations."""
