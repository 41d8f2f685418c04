"""Agents with an LSTM.

- ``lstm`` and its ablations: ``agent``, ``controls``; the network is in ``controller``.
- ``lstm-ensemble``: ``ensemble_agent``; the network is in ``ensemble``.
- ``lstm-meta``: ``meta_agent``; the network is in ``meta``, its training in ``meta_training``.
- ``reinforce``: ``reinforce``; the network is in ``policy``.

``common`` has the shared hyper-parameters and schedules, ``choice_rows`` the embeddings of choices.
"""
