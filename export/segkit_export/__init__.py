"""From a trained network to a proven bundle: ONNX, held against torch, and compiled engines. Needs torch."""
