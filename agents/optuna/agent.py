"""Optuna as an agent: an ask-tell agent that wraps Optuna's samplers, pruners and storages."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.base import Capabilities, RoundCallback, SearchResult
from kdnas_env.agents.environment import Environment, Info, action_counts, prefetch
from kdnas_env.agents.optuna import DISMISSED, DRAWN, Identity, OptunaConfig
from kdnas_env.agents.ranking import RoundRecord
from kdnas_env.core.grid import Grid, Seen
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.support.arrays import Ints
from kdnas_env.support.env_attributes import env_attribute, has_env_attribute, set_env_attribute

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

_logger = logging.getLogger(__name__)

_SAMPLING, _DRAWING = 1, 2
"""Keys of the random streams: for the samplers, and for candidates drawn at random instead of by the sampler."""


class OptunaAgent(AskTellAgent[OptunaConfig]):
    """Proposes candidates from an Optuna sampler (Akiba et al. 2019, arXiv:1907.10902), each point at most once.

    Each proposal is a trial of a study (:attr:`study`). Its user attributes hold the reward, the status and, if the
    info has it, the architecture. If the sampler proposes a known or forbidden point, the trial is dismissed, a user
    attribute records the reason, and the sampler tries again. After several tries a random point is drawn.

    With a pruner, an evaluation is stopped if its loss after an epoch compares badly with earlier trials. This needs
    the environment's attribute ``on_epoch``: a callback after each epoch, which stops the evaluation by returning true.
    A callback that is already set is still called.

    Each trial has a new sampler, seeded by the search's seed and the trial's number. All other information of a sampler
    is in the study. The saved state of the agent holds a study in memory completely, and of a stored study the name.

    What happens if a search is started again with the same seed depends on the storage of its study:

    | ``storage`` | ``study_name`` | ``worker`` | The second search                                                    |
    |-------------|----------------|------------|----------------------------------------------------------------------|
    | None        |                |            | makes the same proposals                                             |
    | given       | None           |            | makes the same proposals in a new study (1)                          |
    | given       | given          | None       | joins the study and proposes points that nobody has evaluated        |
    | given       | given          | given      | first proposes its own earlier trials again, without new trials      |

    (1) Except with the pruner ``hyperband``, which assigns trials to brackets by the name of the study.

    Two processes never evaluate the same point of a study, if the storage shows each process all earlier changes of the
    others, as databases and journals on a local disk do. If two processes choose a point at the same moment, both may
    skip it; it can be proposed again. The trials of a killed process stay running, and their points stay pending, until
    a search with the same ``worker`` starts, or the process has sent no heartbeat for ``stale_after`` seconds. Then the
    next process that reads the study marks the trials as failed, and their points can be proposed again. Processes of
    kdnas 0.1 and other programs send no heartbeats, so their trials must not take longer than ``stale_after``.

    All rewards in a study must come from the same environment. The agent records the environment's ``identity`` in the
    study and refuses to join a study with another one. The identity of ``KDNASEnv`` contains the choices of the space,
    teacher, text, recipe, reward, fidelity, and the wrappers that change rewards or actions. Without an identity, as in
    studies of kdnas 0.1, the agent only compares the names and the number of choices of the dimensions.

    The samplers ``tpe`` and ``gp`` propose only points that are neither evaluated nor pending. Samplers and pruners see
    only the newest and the best trials, which limits the time of a proposal in a long search. However, a stored study
    is read for each proposal, and ``hyperband`` reads all trials.

    Raises:
        DependencyError: If Optuna, or a package that the sampler needs, is not installed.
        KDNASError: If an option of the sampler or of the pruner is unknown or malformed.
    """

    Config = OptunaConfig
    capabilities = Capabilities(multi_objective=True, fidelity=True)
    _trials: dict[int, Trial | None]  # trials of the pending points, by flat index; None if the trial has ended

    def __init__(self, config: OptunaConfig | None = None) -> None:
        super().__init__(config)
        self._identity = Identity()
        try:
            from kdnas_env.agents.optuna.samplers import make_pruner, sampler_maker
        except ImportError as error:
            raise DependencyError(
                f"the agent needs Optuna, which cannot be imported: {error}; pip install 'kdnas[optuna]'"
            ) from error
        # Check the options now, before anything is loaded or evaluated.
        make_pruner(self.config.pruner, self.config.pruner_options)
        sampler_maker(self.config.sampler, self.config.sampler_options, ("x",), Grid.of([2]), lambda number: number)(0)

    @property
    def study(self) -> Study:
        """The study of the search."""
        self._check_started()
        return self._grid_study.study

    @property
    def pareto_front(self) -> list[FrozenTrial]:
        """The Pareto-optimal trials; without objectives, the trials with the highest reward."""
        return [trial for trial in self.study.best_trials if DISMISSED not in trial.user_attrs]

    def start(
        self, env: Environment, *, budget: int | None = None, round_size: int | None = None, seed: int = 0
    ) -> None:
        """Start a new search of an environment; see :meth:`AskTellAgent.start`.

        The parameters get the names in ``search_space.dimensions``, if the environment has this attribute.

        Raises:
            RunError: Also if the study belongs to another search, for example of another teacher.
        """
        action_counts(env)
        names = getattr(env_attribute(env, "search_space"), "dimensions", None)
        # Read before a study is created, because the environment may fail to load what it needs for this.
        content = None if self.config.storage is None else env_attribute(env, "identity")
        self._identity = Identity(names=names if isinstance(names, tuple) else None, content=content)
        try:
            super().start(env, budget=budget, round_size=round_size, seed=seed)
        finally:
            self._identity = Identity()

    def resume(self, env: Environment, *, on_round: RoundCallback | None = None) -> SearchResult:
        """Resume a loaded or interrupted search; see :meth:`AskTellAgent.resume`.

        Raises:
            KDNASError: Also if there is a pruner, but the environment cannot stop evaluations.
            RunError: If the study belongs to another search, for example of another teacher.
        """
        action_counts(env)
        if self.config.pruner != "none" and not has_env_attribute(env, "on_epoch"):
            raise KDNASError(
                f"pruner {self.config.pruner!r} stops evaluations, but the environment has no attribute 'on_epoch'; "
                "use pruner='none'"
            )
        self._check_started()
        if self._grid_study.shared:
            self._grid_study.join(env_attribute(env, "identity"))
        result = super().resume(env, on_round=on_round)
        if self._grid_study.shared and len(result.actions) < self.budget and (waiting := len(self._read_others())):
            _logger.warning(
                "the search of study %r ended after %d of %d evaluations, because other processes evaluate the "
                "remaining %d points; points of dead processes can be proposed again after %g seconds",
                *(self.study.study_name, len(result.actions), self.budget, waiting, self.config.stale_after),
            )
        return result

    @property
    def on_epoch(self) -> Callable[[Ints, Any], bool] | None:
        """Function that an asynchronous search calls after each epoch of a candidate; None without a pruner.

        It takes the action and the report of the epoch, and returns whether to stop the evaluation.
        """
        return None if self.config.pruner == "none" else self._report_epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the state as NumPy arrays and JSON values, without infos."""
        state = super().state_dict()
        trials = [self._trials[number] for number in self._pending]
        return {
            **state,
            "study": self._grid_study.to_state(),
            "pending_trials": [None if trial is None else trial.number for trial in trials],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`.

        Raises:
            RunError: If the agent, version or hyper-parameters differ, or the study is not in the storage.
        """
        study = state.get("study")
        if study is not None:
            self._identity = Identity(tuple(study["names"]), study["name"], study["worker"])
        try:
            super().load_state_dict(state)
        finally:
            self._identity = Identity()
        self._grid_study.restore(state["study"])
        self._trials = {
            number: None if trial is None else self._grid_study.reopen(trial)
            for number, trial in zip(self._pending, state["pending_trials"], strict=True)
        }
        self._own_trials = deque(self._grid_study.own(exclude=self.seen))

    def _start(self) -> None:
        from kdnas_env.agents.optuna.study import GridStudy

        identity, self._identity = self._identity, Identity()
        self._grid_study = GridStudy.open(self.grid, self.config, identity, self._sampler_seed)
        self._own_trials = deque(self._grid_study.own(exclude=()))
        self._trials = {}

    def _sampler_seed(self, number: int) -> int:
        return int(self._stream(_SAMPLING, number).integers(2**32))

    def _propose(self, n: int) -> Proposal:
        from kdnas_env.agents.optuna.storage import quiet

        all_random = self.config.sampler == "random"
        taken = self.seen
        actions: list[Ints] = []
        drawn: list[bool] = []
        with quiet():
            while len(actions) < n and (candidate := self._next(taken)) is not None:
                number, action, is_drawn = candidate
                taken.add(number)
                actions.append(action)
                drawn.append(is_drawn or all_random)
        return Proposal(
            actions=np.array(actions, dtype=np.int64).reshape(-1, len(self.grid.nvec)),
            random=np.array(drawn, dtype=np.bool_),
            exploration=float(all_random),
        )

    def _next(self, taken: Seen) -> tuple[int, Ints, bool] | None:
        """Return the flat index and action of the next candidate, and whether it is random; None if there is none."""
        study = self._grid_study
        while self._own_trials:
            frozen = self._own_trials.popleft()
            trial = study.reopen(frozen.number)
            if trial is None:
                number = study.number(frozen.params)
                self._trials[number] = None
                return number, study.action(frozen.params), DRAWN in frozen.user_attrs
            if self._claim(trial, taken):
                return study.number(trial.params), study.action(trial.params), DRAWN in frozen.user_attrs
        for attempt in count():
            if study.shared:
                taken.update(self._read_others())
            if len(taken) >= self.grid.size and not len(self.grid.remaining(taken)):
                break
            trial, is_drawn = study.begin(), attempt > self.config.retries
            if is_drawn:
                trial.set_user_attr(DRAWN, True)
            action = self.grid.draw(self._stream(_DRAWING, trial.number), 1, taken)[0] if is_drawn else None
            if self._claim(trial, taken, action):
                return study.number(trial.params), study.action(trial.params), is_drawn
        return None

    def _read_others(self, exclude: int | None = None) -> set[int]:
        """Add the points that other processes have evaluated to the seen ones; return the points with running trials.

        Args:
            exclude: Number of a running trial to ignore.
        """
        evaluated, running = self._grid_study.read_others(exclude)
        self._seen.update(evaluated)
        return running

    def _claim(self, trial: Trial, taken: Seen, action: Ints | None = None) -> bool:
        """Set the point of a trial and return whether to evaluate it; otherwise dismiss the trial."""
        study = self._grid_study
        action = study.decide(trial, action, taken)
        number = study.number(trial.params)
        # Trials that users have enqueued may be outside the grid.
        if np.any((action < 0) | (action >= self.grid.nvec)) or not len(self.grid.fresh(action[None], ())):
            reason = "not allowed"
        elif number in taken or (
            study.shared and (number in self._read_others(exclude=trial.number) or number in taken)
        ):
            reason = "known"
        else:
            self._trials[number] = trial
            return True
        study.dismiss(trial, reason, with_value=self.config.duplicates == "value")
        return False

    def _learn(self, record: RoundRecord) -> None:
        from kdnas_env.agents.optuna.storage import quiet

        numbers = self.grid.numbers(record.actions)
        infos = self._infos[len(self._infos) - len(numbers) :]
        rewards, usable = record.rewards.tolist(), record.usable.tolist()
        with quiet():
            for candidate in zip(numbers, record.actions, rewards, usable, infos, strict=True):
                self._finish(*candidate)

    def _finish(self, number: int, action: Ints, reward: float, usable: bool, info: Info) -> None:
        self._report_info(action, info)
        outcome = self._grid_study.outcome(reward, usable, info)
        if number not in self._trials:
            self._grid_study.add(action, outcome)
        elif (trial := self._trials.pop(number)) is not None:
            self._grid_study.finish(trial, outcome)

    def _evaluate_round(self, env: Environment, actions: Ints) -> bool:
        if isinstance(env, gym.vector.VectorEnv):
            with self._reporting(env, actions):
                return super()._evaluate_round(env, actions)
        with self._reporting(env, actions):
            prefetch(env, actions)
        return super()._evaluate_round(_ReportingEnv(env, self._reporting, self._report_info), actions)

    @contextmanager
    def _reporting(self, env: Environment, actions: Ints) -> Iterator[None]:
        """Report the epochs of evaluations inside the block to the pruner, and still call an existing callback."""
        if self.config.pruner == "none":
            yield
            return
        before = env_attribute(env, "on_epoch")

        def on_epoch(report: Any) -> bool:
            stop = before is not None and bool(before(report))
            # If the batch lacks some of the actions, the report's index does not tell which action it is.
            if report.candidates != len(actions):
                return stop
            return self._report_epoch(actions[report.candidate], report) or stop

        set_env_attribute(env, "on_epoch", on_epoch)
        try:
            yield
        finally:
            set_env_attribute(env, "on_epoch", before)

    def _report_epoch(self, action: Ints, report: Any) -> bool:
        """Report an epoch of a candidate; return whether the pruner stops it."""
        trial = self._trial(action)
        last = report.epoch >= report.epochs
        return trial is not None and self._grid_study.report(trial, report.epoch, report.heldout_unexplained, last=last)

    def _report_info(self, action: Ints, info: Info) -> None:
        """Check the info of an evaluation, and report its epochs that were not reported yet.

        A stored evaluation does not call ``on_epoch``. Reporting its epochs here lets the pruner compare later trials
        with it.
        """
        if info.get("status", "ok") != "ok":
            return
        self.config.values_of(info)
        trial = None if self.config.pruner == "none" else self._trial(action)
        if trial is not None:
            losses = [loss for loss in np.asarray(info.get("heldout_curve", ())).tolist() if loss >= 0]
            reported = self._grid_study.reported(trial)
            for epoch, loss in enumerate(losses):
                if epoch not in reported:
                    self._grid_study.report(trial, epoch, loss, last=epoch == len(losses) - 1)

    def _trial(self, action: Ints) -> Trial | None:
        (number,) = self.grid.numbers(action[None])
        return self._trials.get(number)


class _ReportingEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Enters a context around each step, then passes on the step's info."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        around: Callable[[Environment, Ints], AbstractContextManager[None]],
        on_info: Callable[[Ints, Info], None],
    ) -> None:
        super().__init__(env)
        self._around = around
        self._on_info = on_info

    def step(self, action: Ints) -> Any:
        """Step the environment inside the context."""
        with self._around(self.env, action[None]):
            result = self.env.step(action)
        self._on_info(action, result[4])
        return result
