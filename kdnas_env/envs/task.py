"""The former place of :class:`~kdnas_env.envs.benchmark_task.Task`, so that code written for kdnas 0.2 still works."""

from __future__ import annotations

from kdnas_env.envs.benchmark_task import Task

__all__ = ["Task"]
