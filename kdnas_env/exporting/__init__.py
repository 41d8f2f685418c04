"""Students ready to be used elsewhere: checked folders in hub layout, with an ONNX graph or without."""

from kdnas_env.exporting.errors import ExportError
from kdnas_env.exporting.pipeline import export_onnx, export_safetensors
from kdnas_env.exporting.report import ExportReport

__all__ = ["ExportError", "ExportReport", "export_onnx", "export_safetensors"]
