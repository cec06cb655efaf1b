"""`imagine-bot bench`: this engine beside StableDiffusionPipeline, in one run."""

from .command import bench

__all__ = ["bench"]
