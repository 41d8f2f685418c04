"""Corpora: read, tokenise and split text."""
