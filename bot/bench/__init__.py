"""`imagine-bot bench`: this engine compared with diffusers' StableDiffusionPipeline."""

from .command import bench

__all__ = ["bench"]
