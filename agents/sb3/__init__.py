"""Algorithms of Stable-Baselines3 and sb3-contrib as agents.

- ``agent``: The agents and their hyper-parameters.
- ``learners``: The base class of learners, which sample from an algorithm and train it.
- ``algorithms``: The learners of the algorithms.
- ``episodes``: Candidates as episodes.
"""
