"""Optuna as an agent: samplers, pruners and studies of Optuna search an environment.

- ``config``: Hyper-parameters, and how an evaluation ends a trial; fast to import, without Optuna.
- ``agent``: The agent.
- ``study``: An Optuna study whose trials are points of a grid, and its pruner.
- ``samplers``: Samplers, CMA-ES among them, and the trials that they see in a long study.
- ``storage``: Storages of studies, heartbeats of processes, and checks before a search joins a study.
"""

from kdnas_env.agents.optuna.config import OptunaConfig

__all__ = ["OptunaConfig"]
