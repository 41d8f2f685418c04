"""Students: built, started from their teacher, saved."""
