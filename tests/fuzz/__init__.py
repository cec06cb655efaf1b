"""Fuzzing: random changes to models and pictures, with limits of time and memory."""
