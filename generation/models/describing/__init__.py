"""Facts about a model, read from the model's configs; importing this loads no torch."""
