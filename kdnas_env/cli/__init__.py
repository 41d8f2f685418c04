"""The ``kdnas`` command line: one module a command."""
