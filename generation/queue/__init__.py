"""The queue in front of the engine: the order of jobs, and the thread that runs the engine."""
