"""kdnas: knowledge-distillation neural-architecture search as a Gymnasium environment.

Importing the package registers its environments; nothing heavy is loaded before one is made.
"""

from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from kdnas_env.searching.registry import agent_names, make_agent

__all__ = ["agent_names", "make_agent"]

_TASKS = "kdnas_env.envs.tasks"
_MINI_KD: dict[str, Any] = {
    "entry_point": f"{_TASKS}:MiniKDEnv",
    "vector_entry_point": f"{_TASKS}:make_mini_kd_vector",
}
_PLANTED: dict[str, Any] = {
    "entry_point": f"{_TASKS}:PlantedEnv",
    "vector_entry_point": f"{_TASKS}:make_planted_vector",
}
_TABULAR: dict[str, Any] = {
    "entry_point": f"{_TASKS}:TabularEnv",
    "vector_entry_point": f"{_TASKS}:make_tabular_vector",
}
_SURROGATE: dict[str, Any] = {
    "entry_point": f"{_TASKS}:SurrogateEnv",
    "vector_entry_point": f"{_TASKS}:make_surrogate_vector",
}

# The latency of a student is measured, so that equal runs of this one differ.
register(id="kdnas/MiniKD-v0", **_MINI_KD, nondeterministic=True)
register(id="kdnas/MiniKDAnalytic-v0", **_MINI_KD, kwargs={"latency": "analytic"})
register(id="kdnas/Planted-v0", **_PLANTED)
register(id="kdnas/Tabular-v0", **_TABULAR)
register(id="kdnas/Surrogate-v0", **_SURROGATE)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kdnas_env.searching import registry

    return getattr(registry, name)
