"""Tools for testing one's own agent, evaluator or environment."""
