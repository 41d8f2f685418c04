"""Distillation: recipes, objectives, mini-KD and full KD."""
