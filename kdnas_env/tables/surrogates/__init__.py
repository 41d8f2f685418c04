"""Surrogates: regression models of tables."""
