"""Optuna as an agent: its samplers, pruners and storages behind ask and tell."""

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
from kdnas_env.agents.environment import Environment, Info, action_counts, env_attribute, prefetch
from kdnas_env.agents.optuna import DISMISSED, DRAWN, Identity, OptunaConfig
from kdnas_env.agents.ranking import Ints, RoundRecord
from kdnas_env.core.grid import Seen
from kdnas_env.errors import DependencyError, KDNASError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

_logger = logging.getLogger(__name__)

_SAMPLING, _DRAWING = 1, 2
"""Keys of the streams of random numbers: of the samplers, and of candidates that are drawn in their place."""


class OptunaAgent(AskTellAgent[OptunaConfig]):
    """Proposes candidates from an Optuna sampler (Akiba et al. 2019, arXiv:1907.10902), each point at most once.

    Every proposal is a trial of a study (:attr:`study`), with the reward, the status and, if the info has it, the
    architecture as user attributes. If a sampler proposes a known or forbidden point, the trial is dismissed, an
    attribute records the reason, and the sampler tries again; after several tries a random point is drawn.

    With a pruner an evaluation is stopped when its loss after an epoch compares badly. For this the environment needs
    the attribute ``on_epoch``, a callback after each epoch that stops the evaluation by returning true; one
    that is set already is called as before.

    For each trial the sampler is made anew and seeded by the search's seed and the trial's number; all else that it
    knows is in the study. The saved state holds the whole of a study in memory, and the name of one in a storage.

    What a search does that is started again with the same seed depends on where its study is kept:

    | ``storage`` | ``study_name`` | ``worker`` | The search                                                      |
    |-------------|----------------|------------|-----------------------------------------------------------------|
    | None        |                |            | makes the same proposals                                        |
    | given       | None           |            | makes the same proposals, in a new study (1)                    |
    | given       | given          | None       | joins the study, and proposes what nobody has evaluated         |
    | given       | given          | given      | proposes its own trials again without adding any, then goes on  |

    (1) But for the pruner ``hyperband``, which deals trials out to brackets by the name of the study.

    No point of a study is evaluated by two processes, provided that the storage shows each what the others have
    written before (databases and journals on a local disk do). Two that meet at a point in the same instant may both
    leave it; it can be proposed again. The trials of a process that was killed are left running, and their points
    taken, until a search with the same ``worker`` is started, or the process has given no sign of life for
    ``stale_after`` seconds: the next process that reads the study marks them as failed, and their points are proposed
    again. Processes of kdnas 0.1 and of others give no signs, so that their trials must not take longer than that.

    Rewards in a study have to be of one environment. The environment's ``identity`` is recorded in
    the study, and another one is refused: that of ``KDNASEnv`` holds the choices of the space, teacher, text,
    recipe, reward, fidelity, and wrappers that change rewards or actions. Of an environment without, and of studies of
    kdnas 0.1, names and numbers of choices are compared.

    The samplers ``tpe`` and ``gp`` propose only unevaluated points. Samplers and pruners see only the newest and the
    best trials, which limits the time of a proposal in a long search. However, a study in a storage is read for each
    proposal, and ``hyperband`` reads all trials.
    """

    Config = OptunaConfig
    capabilities = Capabilities(multi_objective=True, fidelity=True)
    _trials: dict[int, Trial | None]  # of the pending points by number; None: in the study it is evaluated already

    def __init__(self, config: OptunaConfig | None = None) -> None:
        super().__init__(config)
        self._identity = Identity()
        try:
            from kdnas_env.agents.optuna.samplers import make_pruner, sampler_maker
        except ImportError as error:
            raise DependencyError(
                f"the agent needs Optuna, which cannot be imported: {error}; pip install 'kdnas[optuna]'"
            ) from error
        # Options are checked now, before anything is loaded or evaluated.
        make_pruner(self.config.pruner, self.config.pruner_options)
        sampler_maker(self.config.sampler, self.config.sampler_options, {"x": 2}, lambda number: number)(0)

    @property
    def study(self) -> Study:
        """The study of the search."""
        self._check_started()
        return self._book.study

    @property
    def pareto_front(self) -> list[FrozenTrial]:
        """The Pareto-optimal trials; without objectives, the trials with the highest reward."""
        return [trial for trial in self.study.best_trials if DISMISSED not in trial.user_attrs]

    def start(
        self, env: Environment, *, budget: int | None = None, round_size: int | None = None, seed: int = 0
    ) -> None:
        """Start a new search of an environment; see :meth:`AskTellAgent.start`.

        The parameters are named by ``search_space.dimensions``, if the environment has that.

        Raises:
            RunError: Also if the study was made by another search, such as of another teacher.
        """
        action_counts(env)
        names = getattr(env_attribute(env, "search_space"), "dimensions", None)
        # Asked for before a study is made, since what an environment has to load for it may be missing.
        content = None if self.config.storage is None else env_attribute(env, "identity")
        self._identity = Identity(names=names if isinstance(names, tuple) else None, content=content)
        try:
            super().start(env, budget=budget, round_size=round_size, seed=seed)
        finally:
            self._identity = Identity()

    def resume(self, env: Environment, *, on_round: RoundCallback | None = None) -> SearchResult:
        """Go on with a search that was loaded or interrupted; see :meth:`AskTellAgent.resume`.

        Raises:
            KDNASError: Also if there is a pruner, but nothing in the environment to stop an evaluation by.
            RunError: If the study is of another search, such as of another teacher.
        """
        action_counts(env)
        if self.config.pruner != "none" and not _has_attribute(env, "on_epoch"):
            raise KDNASError(
                f"pruner {self.config.pruner!r} has to stop evaluations, but the environment has no attribute "
                "'on_epoch'; use pruner='none'"
            )
        self._check_started()
        if self._book.shared:
            self._book.join(env_attribute(env, "identity"))
        result = super().resume(env, on_round=on_round)
        if self._book.shared and len(result.actions) < self.budget and (waiting := len(self._others())):
            _logger.warning(
                "the search of study %r ended after %d of %d evaluations, since %d points that are left are being "
                "evaluated by other processes; those of dead processes can be proposed again after %g seconds",
                *(self.study.study_name, len(result.actions), self.budget, waiting, self.config.stale_after),
            )
        return result

    @property
    def hear(self) -> Callable[[Ints, Any], bool] | None:
        """What a search without rounds asks after each epoch of a candidate, to stop it; None without a pruner."""
        return None if self.config.pruner == "none" else self._unwanted

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numpy arrays and values that JSON can hold. Infos are left out."""
        state = super().state_dict()
        trials = [self._trials[number] for number in self._pending]
        return {
            **state,
            "study": self._book.to_state(),
            "pending_trials": [None if trial is None else trial.number for trial in trials],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`.

        Raises:
            RunError: If it is of another agent, version or hyper-parameters, or its study is not in the storage.
        """
        study = state.get("study")
        if study is not None:
            self._identity = Identity(tuple(study["names"]), study["name"], study["worker"])
        try:
            super().load_state_dict(state)
        finally:
            self._identity = Identity()
        self._book.restore(state["study"])
        self._trials = {
            number: None if trial is None else self._book.reopen(trial)
            for number, trial in zip(self._pending, state["pending_trials"], strict=True)
        }
        self._own = deque(self._book.own(but=self.seen))

    def _start(self) -> None:
        from kdnas_env.agents.optuna.study import GridStudy

        identity, self._identity = self._identity, Identity()
        self._book = GridStudy.open(self.grid, self.config, identity, self._sampler_seed)
        self._own = deque(self._book.own(but=()))
        self._trials = {}

    def _sampler_seed(self, number: int) -> int:
        return int(self._stream(_SAMPLING, number).integers(2**32))

    def _propose(self, n: int) -> Proposal:
        all_random = self.config.sampler == "random"
        taken = self.seen
        actions: list[Ints] = []
        drawn: list[bool] = []
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
        """Return number and action of the next candidate and whether it was drawn at random; None: there is none."""
        book = self._book
        while self._own:
            frozen = self._own.popleft()
            trial = book.reopen(frozen.number)
            if trial is None:
                number = book.number(frozen.params)
                self._trials[number] = None
                return number, book.action(frozen.params), DRAWN in frozen.user_attrs
            if self._claims(trial, taken):
                return book.number(trial.params), book.action(trial.params), DRAWN in frozen.user_attrs
        for attempt in count():
            if book.shared:
                taken.update(self._others())
            if len(taken) >= self.grid.size and not len(self.grid.remaining(taken)):
                break
            trial, is_drawn = book.begin(), attempt > self.config.retries
            if is_drawn:
                trial.set_user_attr(DRAWN, True)
            action = self.grid.draw(self._stream(_DRAWING, trial.number), 1, taken)[0] if is_drawn else None
            if self._claims(trial, taken, action):
                return book.number(trial.params), book.action(trial.params), is_drawn
        return None

    def _others(self, but: int | None = None) -> set[int]:
        """Take in what processes that share the study have evaluated; return the points at which trials are running.

        Args:
            but: Number of a trial that is left out while it is running.
        """
        evaluated, running = self._book.others(but)
        self._seen.update(evaluated)
        return running

    def _claims(self, trial: Trial, taken: Seen, action: Ints | None = None) -> bool:
        """Decide the point of a trial; return whether it is to be evaluated, and dismiss the trial if not."""
        book = self._book
        action = book.decide(trial, action, taken)
        number = book.number(trial.params)
        # A trial that somebody has enqueued may be outside the grid.
        if np.any((action < 0) | (action >= self.grid.nvec)) or not len(self.grid.fresh(action[None], ())):
            reason = "not allowed"
        elif number in taken or (book.shared and (number in self._others(but=trial.number) or number in taken)):
            reason = "known"
        else:
            self._trials[number] = trial
            return True
        book.dismiss(trial, reason, with_value=self.config.duplicates == "value")
        return False

    def _learn(self, record: RoundRecord) -> None:
        from kdnas_env.agents.optuna.study import Outcome

        numbers = self.grid.numbers(record.actions)
        infos = self._infos[len(self._infos) - len(numbers) :]
        for number, action, reward, usable, info in zip(
            numbers, record.actions, record.rewards.tolist(), record.usable.tolist(), infos, strict=True
        ):
            self._answered(action, info)
            outcome = Outcome.of(self.config, reward, usable, info)
            if number not in self._trials:
                self._book.add(action, outcome)
            elif (trial := self._trials.pop(number)) is not None:
                self._book.finish(trial, outcome)

    def _play(self, env: gym.Env[Any, Any], actions: Ints) -> bool:
        with self._listening(env, actions):
            prefetch(env, actions)
        return super()._play(_Watched(env, self._listening, self._answered), actions)

    def _play_together(self, env: gym.vector.VectorEnv[Any, Any, Any], actions: Ints) -> bool:
        with self._listening(env, actions):
            return super()._play_together(env, actions)

    @contextmanager
    def _listening(self, env: Environment, actions: Ints) -> Iterator[None]:
        """Report the epochs of evaluations inside the block to the pruner, beside the callback that is set already."""
        if self.config.pruner == "none":
            yield
            return
        before = env_attribute(env, "on_epoch")

        def on_epoch(report: Any) -> bool:
            stop = before is not None and bool(before(report))
            # Of a batch that lacks some of the actions it is not known which they are.
            if report.candidates != len(actions):
                return stop
            return self._unwanted(actions[report.candidate], report) or stop

        _set_attribute(env, "on_epoch", on_epoch)
        try:
            yield
        finally:
            _set_attribute(env, "on_epoch", before)

    def _unwanted(self, action: Ints, report: Any) -> bool:
        """Report an epoch of a candidate; return whether the pruner wants it stopped."""
        trial = self._trial(action)
        last = report.epoch >= report.epochs
        return trial is not None and self._book.report(trial, report.epoch, report.heldout_unexplained, last=last)

    def _answered(self, action: Ints, info: Info) -> None:
        """Check the info of an evaluation, and report those of its epochs that were not reported.

        A store answers without evaluating. Later trials are compared with the answer as with an evaluation.
        """
        if info.get("status", "ok") != "ok":
            return
        self.config.values_of(info)
        trial = None if self.config.pruner == "none" else self._trial(action)
        if trial is not None:
            reached = [loss for loss in np.asarray(info.get("heldout_curve", ())).tolist() if loss >= 0]
            heard = self._book.reported(trial)
            for epoch, loss in enumerate(reached):
                if epoch not in heard:
                    self._book.report(trial, epoch, loss, last=epoch == len(reached) - 1)

    def _trial(self, action: Ints) -> Trial | None:
        (number,) = self.grid.numbers(action[None])
        return self._trials.get(number)


class _Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Opens a block around each step, and passes the info on."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        around: Callable[[Environment, Ints], AbstractContextManager[None]],
        answered: Callable[[Ints, Info], None],
    ) -> None:
        super().__init__(env)
        self._around = around
        self._answered = answered

    def step(self, action: Ints) -> Any:
        """Step."""
        with self._around(self.env, action[None]):
            answer = self.env.step(action)
        self._answered(action, answer[4])
        return answer


def _has_attribute(env: Environment, name: str) -> bool:
    return hasattr(env.unwrapped, name) if isinstance(env, gym.vector.VectorEnv) else env.has_wrapper_attr(name)


def _set_attribute(env: Environment, name: str, value: Any) -> None:
    if isinstance(env, gym.vector.VectorEnv):
        setattr(env.unwrapped, name, value)
    else:
        env.set_wrapper_attr(name, value)
