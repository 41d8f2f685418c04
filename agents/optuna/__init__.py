"""Optuna as an agent: samplers, pruners and studies of Optuna search an environment.

- ``config``: Hyper-parameters; fast to import.
- ``agent``: The agent.
- ``study``: An Optuna study whose trials are points of a grid.
- ``trials``: How an evaluation ends a trial, saved trials, and the trials that samplers see.
- ``samplers``: Samplers and pruners; ``cmaes``: CMA-ES, whose state is saved as JSON.
- ``storages``: Storages of studies, heartbeats, and checks before a search joins a study.
"""

from kdnas_env.agents.optuna.config import OptunaConfig

__all__ = ["OptunaConfig"]
