"""Benchmark of OptunaHub: search for a small, fast student of a language model, on tables of real distillations."""

try:
    from kdnas_env.integrations.optunahub import Problem
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Please run `pip install kdnas[optunahub]` to use `benchmarks/kdnas`.") from error

__all__ = ["Problem"]
