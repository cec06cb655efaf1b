"""Secure deletion: no file of the data folder holds the content of a deleted job.

A deletion has several transactions, since a rollback restores rows, but no files:

1. `jobs.forget` marks the job deleted, clears prompt, member and recipe in its rows, and marks
   pictures that nothing needs for removal.
2. `recipes` writes pictures that variations still need again, without their recipes.
3. `pictures.rows.remove_marked_files` removes the files, also the ones that step 2 replaced.
4. `remnants` removes deleted words from the search index and the write-ahead log.
   `PRAGMA secure_delete` has overwritten them everywhere else.

After a crash the rows tell which files are left for steps 2 and 3, and the header of the database
(`user_version`) tells whether step 4 is done.
"""
