"""How the networks of a model are built, placed on a device, and made deterministic."""
