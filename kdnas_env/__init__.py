"""kdnas: knowledge-distillation neural-architecture search as a Gymnasium environment.

Importing the package registers its environments. These are its names, loaded when they are first used. The other public
modules are listed in ``docs/reference/python.md``.

| Name                           | Meaning                                                                     |
|--------------------------------|-----------------------------------------------------------------------------|
| `search`, `SearchRun`          | search for a small, fast student of a teacher; its result                   |
| `load_run`                     | the result of a finished search, read from its folder                       |
| `distill`, `DistillRun`        | distil the best students of a search for longer; its result                 |
| `score`, `Scores`              | score students and their teacher on tasks; its result                       |
| `export`, `ExportReport`       | export a student with checks, measurements and a model card; its result     |
| `run`, `PipelineRun`           | search, distil, score and export in one folder; its result                  |
| `vocabulary`, `VocabularyCut`  | give a teacher a smaller vocabulary, for smaller students; its result       |
| `race`, `RaceResults`          | compare agents on tables of evaluations; its result                         |
| `study`, `StudyRun`            | study whether short evaluations predict the quality on tasks; its result    |
| `make_agent`, `agent_names`    | make an agent by name; all names                                            |
| `load_table`                   | load a table of evaluations, by name or file                                |
| `SearchSpace`, `StudentConfig` | the students that can be searched; the architecture of one                  |
| `Evaluation`, `Fidelity`       | the measurements of a student; the effort spent on them                     |
| `KDReward`, `Constraints`      | the reward of an evaluation; limits that students must keep                 |
| `ConsoleProgress`, `Progress`  | displays progress in terminals and notebooks; the interface of progress     |
| `KDNASError`, `Interrupted`    | the base class of errors; raised after Ctrl-C, with the call that resumes   |
| `__version__`                  | the version                                                                 |
"""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from kdnas_env.core.architecture import StudentConfig as StudentConfig
    from kdnas_env.core.constraints import Constraints as Constraints
    from kdnas_env.core.evaluation import Evaluation as Evaluation
    from kdnas_env.core.evaluation import Fidelity as Fidelity
    from kdnas_env.core.reward import KDReward as KDReward
    from kdnas_env.core.space import SearchSpace as SearchSpace
    from kdnas_env.errors import KDNASError as KDNASError
    from kdnas_env.exporting.report import ExportReport as ExportReport
    from kdnas_env.pipeline.bench.export import export_searches as export_searches
    from kdnas_env.pipeline.bench.race import RaceResults as RaceResults
    from kdnas_env.pipeline.bench.race import race as race
    from kdnas_env.pipeline.bench.submit import submit_searches as submit_searches
    from kdnas_env.pipeline.bench.train import train_controller as train_controller
    from kdnas_env.pipeline.bench.verify import verify_submission as verify_submission
    from kdnas_env.pipeline.distill import distill as distill
    from kdnas_env.pipeline.distill.result import DistillRun as DistillRun
    from kdnas_env.pipeline.export import export as export
    from kdnas_env.pipeline.run import run as run
    from kdnas_env.pipeline.run.result import PipelineRun as PipelineRun
    from kdnas_env.pipeline.score import score as score
    from kdnas_env.pipeline.score.result import Scores as Scores
    from kdnas_env.pipeline.search import search as search
    from kdnas_env.pipeline.search.finished import load_run as load_run
    from kdnas_env.pipeline.search.result import SearchRun as SearchRun
    from kdnas_env.pipeline.study import StudyRun as StudyRun
    from kdnas_env.pipeline.study import study as study
    from kdnas_env.pipeline.table.agreement import table_agreement as table_agreement
    from kdnas_env.pipeline.table.build import build_table as build_table
    from kdnas_env.pipeline.table.export import export_table as export_table
    from kdnas_env.pipeline.table.fit import fit_surrogate as fit_surrogate
    from kdnas_env.pipeline.table.inspect import inspect_table as inspect_table
    from kdnas_env.pipeline.table.verify import verify_table as verify_table
    from kdnas_env.pipeline.vocabulary import VocabularyCut as VocabularyCut
    from kdnas_env.pipeline.vocabulary import vocabulary as vocabulary
    from kdnas_env.pipeline.work import Interrupted as Interrupted
    from kdnas_env.searching.registry import agent_names as agent_names
    from kdnas_env.searching.registry import make_agent as make_agent
    from kdnas_env.support.progress import ConsoleProgress as ConsoleProgress
    from kdnas_env.support.progress import Progress as Progress
    from kdnas_env.tables.storage import load_table as load_table

    __version__: str
    TaskProgress = ConsoleProgress

_PUBLIC = {
    "core.architecture": ("StudentConfig",),
    "core.constraints": ("Constraints",),
    "core.evaluation": ("Evaluation", "Fidelity"),
    "core.reward": ("KDReward",),
    "core.space": ("SearchSpace",),
    "errors": ("KDNASError",),
    "exporting.report": ("ExportReport",),
    "pipeline.bench.export": ("export_searches",),
    "pipeline.bench.race": ("RaceResults", "race"),
    "pipeline.bench.submit": ("submit_searches",),
    "pipeline.bench.train": ("train_controller",),
    "pipeline.bench.verify": ("verify_submission",),
    "pipeline.distill": ("distill",),
    "pipeline.distill.result": ("DistillRun",),
    "pipeline.export": ("export",),
    "pipeline.run": ("run",),
    "pipeline.run.result": ("PipelineRun",),
    "pipeline.score": ("score",),
    "pipeline.score.result": ("Scores",),
    "pipeline.search": ("search",),
    "pipeline.search.finished": ("load_run",),
    "pipeline.search.result": ("SearchRun",),
    "pipeline.study": ("StudyRun", "study"),
    "pipeline.table.agreement": ("table_agreement",),
    "pipeline.table.build": ("build_table",),
    "pipeline.table.export": ("export_table",),
    "pipeline.table.fit": ("fit_surrogate",),
    "pipeline.table.inspect": ("inspect_table",),
    "pipeline.table.verify": ("verify_table",),
    "pipeline.vocabulary": ("VocabularyCut", "vocabulary"),
    "pipeline.work": ("Interrupted",),
    "searching.registry": ("agent_names", "make_agent"),
    "support.progress": ("ConsoleProgress", "Progress"),
    "tables.storage": ("load_table",),
}
_MODULES = {name: f"kdnas_env.{module}" for module, names in _PUBLIC.items() for name in names}

_RENAMED = {"TaskProgress": "ConsoleProgress"}
"""Names of kdnas 0.2 that still work."""

__all__ = ["__version__", *sorted(_MODULES)]


def _environment(name: str, module: str, kind: str, **spec: Any) -> None:
    """Register an environment, and vectors of it."""
    place = f"kdnas_env.envs.{module}"
    register(f"kdnas/{name}-v0", f"{place}:{kind}", vector_entry_point=f"{place}:make_vector", **spec)


# The latency of a student is measured, so that equal runs of this one differ.
_environment("MiniKD", "mini_kd", "MiniKDEnv", nondeterministic=True)
_environment("MiniKDAnalytic", "mini_kd", "MiniKDEnv", kwargs={"latency": "analytic"})
_environment("Planted", "planted", "PlantedEnv")
_environment("Tabular", "tabular", "TabularEnv")
_environment("External", "external", "ExternalEnv")
_environment("Surrogate", "surrogate", "SurrogateEnv")
register("kdnas/Tasks-v0", "kdnas_env.envs.task_distribution:TasksEnv")


def __dir__() -> list[str]:
    modules = {name for name, value in globals().items() if isinstance(value, ModuleType)}
    return sorted({*__all__, *modules, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("kdnas")
    name = _RENAMED.get(name, name)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
