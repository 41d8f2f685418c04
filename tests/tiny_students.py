"""Which tiny students are exported."""

from __future__ import annotations

STUDENTS = ("bert of bert", "roberta of albert", "albert of roberta")
"""Families of student and teacher: each is once either; tokenizer, segments and offset of positions vary."""
