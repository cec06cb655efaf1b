"""The life of a job, from its acceptance to its delivery. No module here imports discord."""
