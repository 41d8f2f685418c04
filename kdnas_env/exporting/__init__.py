"""Students ready to be used elsewhere: checked folders in hub layout, with an ONNX graph or without."""
