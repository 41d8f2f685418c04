"""Gymnasium wrappers: other actions, masks, rewards, observations and infos for the same search.

All wrap ``KDNASEnv`` or any environment with a one-dimensional ``MultiDiscrete`` action space that starts at 0. Wrap
the reward first, then the action, then the observation: ``SequentialChoice(ImprovementReward(env))``.
"""

from kdnas_env.wrappers.action_masks import ActionMasks
from kdnas_env.wrappers.flat_discrete import FlatDiscrete
from kdnas_env.wrappers.improvement import ImprovementReward
from kdnas_env.wrappers.linear_reward import LinearReward
from kdnas_env.wrappers.local_moves import LocalMoves
from kdnas_env.wrappers.multi_fidelity import MultiFidelity
from kdnas_env.wrappers.multi_objective import MultiObjectiveReward
from kdnas_env.wrappers.numeric_info import NumericInfo, NumericVectorInfo
from kdnas_env.wrappers.ordinal_observation import OrdinalObservation
from kdnas_env.wrappers.sequential import SequentialChoice

__all__ = [
    "ActionMasks",
    "FlatDiscrete",
    "ImprovementReward",
    "LinearReward",
    "LocalMoves",
    "MultiFidelity",
    "MultiObjectiveReward",
    "NumericInfo",
    "NumericVectorInfo",
    "OrdinalObservation",
    "SequentialChoice",
]
