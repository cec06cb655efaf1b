"""The plain values that cross the package boundaries: no Discord, no torch, no files."""
