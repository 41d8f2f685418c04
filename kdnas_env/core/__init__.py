"""What a search is about: students, spaces, evaluations, rewards. Pure: no torch."""
