"""Distillation: corpus, teacher, cached hidden states, students, objectives and mini-KD."""
