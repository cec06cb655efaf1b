"""What a person types into a search box, as a query for FTS5."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_LONGEST: Final = 100
_MOST_WORDS: Final = 8
_JOB_ID: Final = re.compile(r"#?([0-9]{1,18})(?:[-./#][0-9]{0,2})?")


def words_query(text: str) -> str | None:
    """Return the FTS5 query for rows that have a word beginning with each word of `text`.

    It is None when `text` holds nothing that can be searched for. Of a long text it takes the
    first words: each is a look into the index of all prompts, while others wait for the database.
    Every word becomes a quoted string, so no character of it means anything to FTS5
    (sqlite.org/fts5.html, section 3.1).
    """
    # FTS5 reads up to the first NUL, and SQLite takes no half of a surrogate pair.
    clean = text[:_LONGEST].replace("\x00", " ").encode("utf-8", "replace").decode()
    words = dict.fromkeys(word for word in clean.split() if any(map(_is_token, word)))
    if not words:
        return None
    first = list(words)[:_MOST_WORDS]
    return " ".join('"{}"*'.format(word.replace('"', '""')) for word in first)


def job_id(text: str) -> int | None:
    """Return the job's number if `text` names a job or its picture: `12`, `#12`, `12-1`."""
    match = _JOB_ID.fullmatch(text.strip())
    return int(match.group(1)) if match else None


def _is_token(character: str) -> bool:
    """Tell whether the tokenizer of the index keeps this character: see its `categories`."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category in {"Co", "So"}
