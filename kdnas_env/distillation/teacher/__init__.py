"""Teachers and their hidden states."""
