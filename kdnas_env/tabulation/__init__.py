"""How a table is made: built, merged, timed, verified."""
