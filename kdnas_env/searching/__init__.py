"""How a search is run: journal, early stopping, run folder."""
