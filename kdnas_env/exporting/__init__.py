"""Exports of encoders and classifiers: checked folders in hub layout, with or without ONNX graphs."""
