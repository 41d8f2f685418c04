"""Latency of students relative to their teacher: measured (torch, ONNX Runtime) or modelled (analytic)."""

from kdnas_env.latency.probe import LatencyProbe
from kdnas_env.latency.settings import LatencySettings, ReferenceMachine

__all__ = ["LatencyProbe", "LatencySettings", "ReferenceMachine"]
