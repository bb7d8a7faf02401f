"""Models that only look rows up in a table: numpy is all that they need."""
