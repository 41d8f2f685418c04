"""Search agents, which depend only on the Gymnasium API.

``README.md`` in this folder lists all agents with their files. Families are in subpackages: :mod:`.classic` (baselines
and evolutionary searches), :mod:`.lstm` (agents with an LSTM), :mod:`.regression` (agents with a regression model),
:mod:`.transfer` (agents with experience of other tasks), :mod:`.optuna` (samplers of Optuna) and :mod:`.sb3`
(algorithms of Stable-Baselines3). Agents derive from :class:`~kdnas_env.agents.ask_tell.AskTellAgent`.
"""
