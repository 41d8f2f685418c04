"""Evaluations in other processes, on this machine or on many; whatever dies on the way, none is lost."""
