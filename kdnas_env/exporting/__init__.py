"""Exports of encoders and classifiers: verified folders in the hub's layout, with or without ONNX graphs."""
