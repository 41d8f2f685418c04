"""Evaluators: whatever turns architectures into evaluations."""
