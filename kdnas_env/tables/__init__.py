"""KD-NAS-Bench: ground-truth tables of distilled students, and what to know of them."""
