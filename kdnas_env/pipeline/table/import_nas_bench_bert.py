"""Import of NAS-Bench-BERT as an external table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.table.inspect import ExternalInspection
from kdnas_env.support.atomic import expanded
from kdnas_env.tables.external import write_external
from kdnas_env.tables.storage import checksum
from kdnas_env.tabulation.nas_bench_bert import import_nas_bench_bert


@dataclass(frozen=True)
class ImportNasBenchBertOptions:
    """Make an external table of NAS-Bench-BERT, to race agents on: 500 BERTs with heterogeneous layers and GLUE scores.

    The authors publish the file as data/BERT_benchmark.json of github.com/aaronserianni/training-free-nas.
    """

    file: tyro.conf.Positional[str]
    """The file BERT_benchmark.json."""
    to: str
    """Path of the table, an npz file; a JSON file of the same name is written beside it."""
    metric: Literal["glue", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts"] = "glue"
    """The score that is the reward; glue is the mean of the others."""


def import_table(file: str | os.PathLike[str] | ImportNasBenchBertOptions, **settings: Any) -> ExternalInspection:
    """Write NAS-Bench-BERT as an external table.

    Args:
        file: Its file ``BERT_benchmark.json``; or all options.
        **settings: Options of :class:`ImportNasBenchBertOptions` by name: ``to`` and ``metric``.

    Raises:
        KDNASError: If the file cannot be read or is malformed, or the table cannot be written.
    """
    options = options_of(ImportNasBenchBertOptions, settings, file=file)
    table, target = import_nas_bench_bert(options.file, options.metric), expanded(options.to)
    write_external(table, target)
    return ExternalInspection(table, checksum(target))
