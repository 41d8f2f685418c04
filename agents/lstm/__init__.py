"""Agents whose model is an LSTM."""
