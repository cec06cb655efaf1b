"""LoRAs and their like: read from files, and merged into copies of a model's weights."""
