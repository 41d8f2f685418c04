"""Running a search: journal, early stopping, run folder."""
