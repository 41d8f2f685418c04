"""The tasks of a race for tools that are not of this package: one file each, which imports the tool."""
