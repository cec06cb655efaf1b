"""Maintenance of the store: orphan files at the start, secure deletion in the background."""
