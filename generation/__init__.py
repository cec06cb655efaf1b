"""A latent diffusion engine written by hand, and the queue in front of it.

Importing this package loads no torch: only `generation.engine` and what it stands on do.
"""
