"""KD-NAS-Bench: ground-truth tables of distilled students, and their analysis."""
