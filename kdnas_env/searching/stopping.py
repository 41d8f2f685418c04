"""Early stopping of students that are worse than others at the same epoch, with the pruners of Optuna."""

from __future__ import annotations

from typing import Any

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochReport, Evaluation, Status
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.support.checks import check_choice
from kdnas_env.support.quiet import muted

RULES = ("asha", "hyperband", "median")
"""Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), Hyperband (Li et al. 2018, arXiv:1603.06560) with
successive halving, and the median rule (Golovin et al. 2017)."""

_REDUCTION = 3
_STARTUP = 4


class StoppingRule:
    """Compares the held-out loss of a student after each epoch with those of all earlier students.

    Students are not stopped before the first step, because that loss says little about their final quality, nor after
    the last epoch, because that saves no time.

    Args:
        name: One of ``RULES``.
        epochs: Number of epochs of an evaluation.

    Raises:
        KDNASError: If there is no such rule, or evaluations have fewer than two epochs.
        DependencyError: If Optuna is not installed.
    """

    def __init__(self, name: str, epochs: int) -> None:
        check_choice("stop", name, RULES)
        if epochs < 2:
            raise KDNASError(
                f"stop is {name!r}, but an evaluation has {epochs} epoch(s); use two or more, because students are "
                "stopped only between the first and the last"
            )
        try:
            import optuna
        except ImportError as error:
            raise DependencyError(f"Optuna is not installed ({error}): pip install 'kdnas[optuna]'") from error
        self._pruner: optuna.pruners.BasePruner
        if name == "asha":
            self._pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=_REDUCTION)
        elif name == "hyperband":
            self._pruner = optuna.pruners.HyperbandPruner(1, epochs, reduction_factor=_REDUCTION)
        else:
            self._pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP)
        self.begin()

    def begin(self) -> None:
        """Forget all students, for a new search."""
        import optuna

        with muted("optuna"):
            self._study = optuna.create_study(
                study_name="kdnas",
                direction="minimize",
                pruner=self._pruner,
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
        self._trials: dict[StudentConfig, Any] = {}
        self._known: set[StudentConfig] = set()

    def __call__(self, report: EpochReport) -> bool:
        """Record an epoch, and return whether to stop the student."""
        if report.epoch == 0:
            self._abandon(report.config)  # its worker died, so it starts again
            self._trials[report.config] = self._study.ask()
        trial = self._trials.get(report.config)
        if trial is None or report.epoch == 0:
            return False
        trial.report(report.heldout_unexplained, step=report.epoch)
        return report.epoch < report.epochs and bool(trial.should_prune())

    def learn(self, evaluation: Evaluation) -> None:
        """Record a finished student, with any epochs that were not reported."""
        from optuna.trial import TrialState

        config, curve = evaluation.config, evaluation.heldout_unexplained
        trial = self._trials.pop(config, None)
        if config in self._known or not curve:
            if trial is not None:
                self._study.tell(trial, state=TrialState.FAIL)
            return
        self._known.add(config)
        if trial is None:
            trial = self._study.ask()
            for epoch, loss in enumerate(curve[1:], start=1):
                trial.report(loss, step=epoch)
                trial.should_prune()  # successive halving records the rungs of a student in this call
        if evaluation.status is Status.OK:
            self._study.tell(trial, curve[-1])
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _abandon(self, config: StudentConfig) -> None:
        from optuna.trial import TrialState

        trial = self._trials.pop(config, None)
        if trial is not None:
            self._study.tell(trial, state=TrialState.FAIL)
