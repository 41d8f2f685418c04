"""Students ready to be used elsewhere: checked folders in hub layout, with an ONNX graph or without."""

from kdnas_env.errors import ExportError
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.writing import export_onnx, export_safetensors

__all__ = ["ExportError", "ExportReport", "export_onnx", "export_safetensors"]
