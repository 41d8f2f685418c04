"""Create tables: build, merge, measure latencies, verify."""
