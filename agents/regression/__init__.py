"""Regression models that propose: the simple rivals that a learned controller has to beat."""
