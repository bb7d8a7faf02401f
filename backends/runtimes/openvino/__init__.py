"""The OpenVINO runtime: serves converted models and ONNX files, without torch."""
