"""What a newcomer runs against Weaviate. It needs nothing of this service but its address there."""
