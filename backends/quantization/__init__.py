"""int8: quantizes converted models, and checks their vectors against float32."""
