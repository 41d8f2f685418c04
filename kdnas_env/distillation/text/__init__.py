"""Corpora: text read, tokenised, split."""
