"""OpenVINO: serves converted models, and ONNX files, without torch."""
