"""int8: quantizes converted models, and compares their results with those in float32."""
