"""Evaluations in worker processes, on one machine or a cluster; if a worker dies, its evaluation is repeated."""
