"""Engines in processes of their own, with the interface of an engine in this process."""
