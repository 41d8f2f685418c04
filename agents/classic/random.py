"""Random search without replacement: the baseline of all other agents."""

from __future__ import annotations

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.base import NoSettings


class RandomAgent(AskTellAgent[NoSettings]):
    """Draws candidates uniformly from the unevaluated points."""

    def _propose(self, n: int) -> Proposal:
        return self._fill([], n, exploration=1.0)
