"""Which tiny students are exported."""

from __future__ import annotations

STUDENTS = ("bert of bert", "albert of albert", "roberta of roberta", "roberta of bert", "albert of roberta")
"""Families of student and teacher: tokenizer, segments and offset of positions vary."""
