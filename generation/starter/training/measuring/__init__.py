"""Measures of how good a starter model is."""
