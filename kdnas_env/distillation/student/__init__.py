"""Students: build them, initialise them from their teacher, save and load them."""
