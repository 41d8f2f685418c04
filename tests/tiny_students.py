"""The tiny students that tests export."""

from __future__ import annotations

STUDENTS = ("bert of bert", "roberta of albert", "albert of roberta")
"""Families of student and teacher, each family once in each role; tokenizers, segments and positions vary."""
