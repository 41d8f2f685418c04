"""Search a table of real distillations for the best student that is 8 times as fast as its teacher."""

from __future__ import annotations

import optuna
import optunahub

problem = optunahub.load_module("benchmarks/kdnas").Problem("rotten-tomatoes:speedup=8")
study = optuna.create_study(directions=problem.directions, sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(problem, n_trials=100)
best = study.best_trial
print(best.params, best.value, "true:", problem.true_reward(best.params), "optimum:", problem.optimal_reward)
