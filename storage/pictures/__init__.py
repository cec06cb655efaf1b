"""Pictures as files, and how they agree with the rows of the database."""
