"""Downstream tasks: data, teachers, task distillation, classifiers, and scores by fine-tuning or linear probes."""
