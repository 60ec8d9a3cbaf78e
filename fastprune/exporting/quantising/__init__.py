"""Quantising: ONNX graphs with weights in 8 or 4 bits."""
