"""Start a build from a table, to continue it on another machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.errors import TableError
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.tables.storage import load_table, table_names
from kdnas_env.tables.table import MISSING, Table
from kdnas_env.tabulation.build import STORE, RecordedEvaluator, read_workload


def is_table(source: str | os.PathLike[str]) -> bool:
    """Return whether a source of evaluations is a table (by its name or npz file) rather than a store."""
    return os.fspath(source) in table_names() or Path(source).suffix == ".npz"


def adopt_table(source: str | os.PathLike[str], folder: Path) -> None:
    """Write the cells of a table to the store of a build that has none.

    Args:
        source: Name or npz file of the table.
        folder: Folder of the build, with its recorded workload.

    Raises:
        TableError: If the table cannot be read, or is of another workload.
        RunError: If the store cannot be written.
    """
    if (folder / STORE).exists():
        return
    table, described = load_table(source), read_workload(folder)
    if table.metadata.workload != described.workload:
        difference = table.metadata.difference(described, ("teacher", "architecture", "corpus", "recipe"))
        raise TableError(
            f"the evaluations of table {table.metadata.name!r} are of another workload than this build's: "
            f"{difference or 'teacher, text or version of the results differ'}. Build with the table's own settings"
        )
    with StoredEvaluator(RecordedEvaluator(described.workload), folder / STORE) as store:
        for evaluation in _cells(table):
            store.add(evaluation)


def _cells(table: Table) -> Iterator[Evaluation]:
    configs = table.configs()
    # The last device is the modelled one, which has a latency for all students; without a latency, a cell would fail.
    device = table.metadata.devices[-1].name
    for column, seed in enumerate(table.metadata.seeds):
        evaluator = TabularEvaluator(table, seed=seed, device=device, missing="failed")
        fidelity = Fidelity(epochs=table.metadata.epochs, seed=seed)
        known = [config for config, code in zip(configs, table.status[:, column], strict=True) if code != MISSING]
        yield from evaluator.evaluate(known, fidelity)
