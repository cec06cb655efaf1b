"""What people read and see. Pure functions: no network."""
