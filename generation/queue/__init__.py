"""The queue in front of the engine: whose turn it is, and the thread that runs the engine."""
