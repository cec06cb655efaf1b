"""Model families, and how a model is loaded onto a device."""
