"""int8: how a converted model is quantized, and the check of its vectors against float32."""
