"""Texts, buttons and files that people see. Pure functions: no network."""
