"""kdnas: knowledge-distillation neural-architecture search as a Gymnasium environment.

Importing the package registers its environments; nothing heavy is loaded before one is made.
"""

from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from kdnas_env.registry import agent_names, make_agent

__all__ = ["agent_names", "make_agent"]

# The latency of a student is measured, so that equal runs of this one differ.
register(id="kdnas/MiniKD-v0", entry_point="kdnas_env.envs.tasks:MiniKDEnv", nondeterministic=True)
register(id="kdnas/MiniKDAnalytic-v0", entry_point="kdnas_env.envs.tasks:MiniKDEnv", kwargs={"latency": "analytic"})
register(id="kdnas/Planted-v0", entry_point="kdnas_env.envs.tasks:PlantedEnv")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kdnas_env import registry

    return getattr(registry, name)
