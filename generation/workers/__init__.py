"""Engines that run elsewhere, driven as if they were here."""
