"""The parity table: the engine's pictures compared with those of diffusers' pipelines.

A cell of the table is a checkpoint, a scheduler with a spacing, and a mode: text, image or edit.
Every family of models has at least one tiny random checkpoint, in the layout of its release.

    python -m tests.parity --short
    python -m tests.parity --write docs/parity.md

The command prints each cell that is wrong, and then exits with 1. `--short` takes two schedulers
of one checkpoint of each family. `--family` takes the checkpoints of one family, and may be
repeated.
"""
