"""Scores on GLUE, by fine-tuning or by a linear probe; ``finetuning``, ``probing`` and ``data`` are the library."""
