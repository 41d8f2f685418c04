"""What every command does, as a function that takes options and returns a record."""
