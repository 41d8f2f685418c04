"""Random search without replacement: the baseline of all other agents."""

from __future__ import annotations

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.base import NoSettings


class RandomAgent(AskTellAgent[NoSettings]):
    """Draws candidates uniformly from the unevaluated points."""

    def _propose(self, n: int) -> Proposal:
        actions = self.grid.draw(self.rng, n, self.seen)
        return Proposal(actions, random=np.ones(len(actions), dtype=np.bool_), exploration=1.0)
