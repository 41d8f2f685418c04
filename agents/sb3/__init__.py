"""Algorithms of Stable-Baselines3 and sb3-contrib as agents.

- ``config``: Hyper-parameters; fast to import.
- ``agent``: The agents.
- ``learners``: The base class of learners, which sample from an algorithm and train it; ``on_policy`` and
  ``q_learning`` implement it.
- ``episodes``: Candidates as episodes.
"""
