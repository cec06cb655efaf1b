"""The networks of the starter model and how they are trained."""
