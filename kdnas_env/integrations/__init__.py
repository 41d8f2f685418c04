"""The tasks of a race for third-party tools: one module per tool, which imports it."""
