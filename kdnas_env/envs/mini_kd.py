"""The environment whose evaluations distil students."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from kdnas_env.core.evaluation import Evaluator
from kdnas_env.envs.assemble import SearchSettings, assemble
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.making import vector_maker


def _evaluator(settings: SearchSettings) -> Evaluator:
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator

    return assemble(settings, MiniKDEvaluator(settings.mini_kd))[0]


class MiniKDEnv(KDNASEnv):
    """Distil real students of a real teacher on real text.

    Description, spaces, rewards, episode end and information are those of `KDNASEnv`. The constructor only reads the
    teacher's configuration; the first `reset` loads weights, text and hidden states.

    With a measured latency, two runs differ by measurement noise. With `latency="analytic"`, the default of
    `kdnas/MiniKDAnalytic-v0`, runs with equal `threads` on one CPU are reproducible.

    ## Arguments

    | Name              | Default     | Meaning                                                                      |
    |-------------------|-------------|------------------------------------------------------------------------------|
    | `teacher`         | `"demo"`    | name or folder of the teacher                                                |
    | `corpus`          | `"demo"`    | name, folder or file of the corpus, or a dict of options of `load_corpus`    |
    | `space`           | `None`      | choices by dimension, a YAML or JSON file, or None: derived from the teacher |
    | `families`        | `None`      | student families to search, with a derived space; None: the teacher's own    |
    | `max_parameters`  | `None`      | largest student allowed, in parameters                                       |
    | `budget`          | `16`        | budget of an episode                                                         |
    | `budget_unit`     | evaluations | `evaluations`, `epochs` or `seconds`                                         |
    | `round_size`      | `4`         | evaluations per round                                                        |
    | `epochs`          | `1`         | epochs of mini-KD per evaluation                                             |
    | `data_fraction`   | `0.2`       | share of the training sentences that is used, in (0, 1]                      |
    | `seed`            | `0`         | seed of initialisation, data order and text splits; the same for all students|
    | `recipe`          | `"default"` | `default`, `few-texts`, `kd-nas`, or a dict of changes                       |
    | `latency`         | `"torch"`   | `torch`, `onnxruntime`, `onnxruntime-int8`, `analytic`, or a settings dict   |
    | `alpha`           | `-0.06`     | exponent of the latency factor                                               |
    | `beta`            | `0.6**6`    | target latency; scales all positive rewards alike, changes no choice         |
    | `penalty`         | `None`      | reward of students that fail or cannot be built; None: -1                    |
    | `loss`            | `None`      | loss of the reward; None: `train_raw` for recipe `kd-nas`, else `heldout`    |
    | `task`            | `None`      | task of the students: its name, or fields of `SearchTask`                    |
    | `quality`         | `imitation` | quality in the reward: `imitation`, or `task`                                |
    | `duplicates`      | `"charge"`  | cost of a repeated architecture: `charge`, `free` or `reject`                |
    | `limits`          | `None`      | limits of students, such as `{"speedup": 5}`                                 |
    | `constraints`     | `"reward"`  | effect of a broken limit: a lower `reward`, or a `cost` in the information   |
    | `infeasible`      | `"free"`    | cost of a student that breaks a limit: `free` or `charge`                    |
    | `store`           | `None`      | SQLite file that keeps every evaluation and answers repeated ones            |
    | `cache_dir`       | `None`      | folder of the teacher's hidden states                                        |
    | `device`          | `None`      | device of the training; None: CUDA if available                              |
    | `threads`         | `None`      | training threads; None: those of PyTorch, divided by workers; 1 on Ray       |
    | `workers`         | `1`         | processes that evaluate the students of a round in parallel                  |
    | `ray`             | `None`      | evaluate on Ray: `local`, `auto`, or the address of its head                 |
    | `gpus_per_worker` | `0.0`       | GPUs, or a fraction of one, that Ray gives each worker                       |
    | `timeout`         | `None`      | seconds after which a silent worker is replaced                              |
    | `render_mode`     | `None`      | `ansi` or `rgb_array`                                                        |

    ## Version History

    * v0: Initial version
    """

    def __init__(
        self,
        teacher: str = SearchSettings.teacher,
        corpus: str | Mapping[str, Any] = SearchSettings.corpus,
        *,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        search = SearchSettings(teacher, corpus, **settings)
        super().__init__(search.search_space, partial(_evaluator, search), **search.episode, render_mode=render_mode)


make_vector = vector_maker(MiniKDEnv)
