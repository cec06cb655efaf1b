"""The numbered steps from an empty file to today's schema.

A step that has been released is never edited: a later change is a new step at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlite_utils


def m001_jobs(db: sqlite_utils.Database) -> None:
    """Add the tables of pictures (by the hash of their file) and of jobs."""
    db.executescript(
        """
        CREATE TABLE pictures (
            sha256 TEXT PRIMARY KEY,
            pixels_sha256 TEXT NOT NULL,
            -- 'removing' until the file is gone: a crash in between must not leave it behind.
            state TEXT NOT NULL DEFAULT 'kept' CHECK (state IN ('kept', 'removing', 'removed'))
        );
        CREATE INDEX pictures_by_pixels ON pictures (pixels_sha256);

        CREATE TABLE jobs (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            status TEXT NOT NULL DEFAULT 'queued' CHECK (status IN (
                'queued', 'running', 'generated', 'delivered', 'failed', 'cancelled'
            )),
            user_id INTEGER NOT NULL,
            guild_id INTEGER,
            channel_id INTEGER NOT NULL,
            message_id INTEGER,
            origin TEXT,
            -- JSON: the request without its source, which is a picture.
            request TEXT NOT NULL,
            source_sha256 TEXT REFERENCES pictures (sha256),
            attempts INTEGER NOT NULL DEFAULT 0,
            error TEXT,
            created_at TEXT NOT NULL,
            -- A deleted job stays where it is: its status is a final one.
            deleted INTEGER NOT NULL DEFAULT 0 CHECK (
                deleted = 0 OR deleted = 1 AND status IN ('delivered', 'failed', 'cancelled')
            )
        );
        CREATE INDEX jobs_by_status ON jobs (status);
        CREATE INDEX jobs_by_user ON jobs (user_id, id);
        CREATE INDEX jobs_by_message ON jobs (message_id);
        CREATE INDEX jobs_by_origin ON jobs (origin);
        CREATE INDEX jobs_by_source ON jobs (source_sha256);
        """
    )


def m002_images(db: sqlite_utils.Database) -> None:
    """Add the table of images with their recipes, and the parent image of a job."""
    db.executescript(
        """
        CREATE TABLE images (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            job_id INTEGER NOT NULL REFERENCES jobs (id),
            "index" INTEGER NOT NULL,
            sha256 TEXT NOT NULL REFERENCES pictures (sha256),
            -- JSON, as in the metadata of the file.
            recipe TEXT NOT NULL,
            deleted INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
            UNIQUE (job_id, "index")
        );
        CREATE INDEX images_by_picture ON images (sha256);
        ALTER TABLE jobs ADD COLUMN parent_image_id INTEGER REFERENCES images (id);
        """
    )


def m003_prompt_search(db: sqlite_utils.Database) -> None:
    """Add a full-text index of prompts, symbols and emoji included."""
    db.executescript(
        """
        CREATE VIRTUAL TABLE prompt_search USING fts5 (
            prompt,
            prefix = '2 3',
            tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co So'"
        );
        INSERT INTO prompt_search (rowid, prompt)
            SELECT id, json_extract(request, '$.prompt') FROM jobs WHERE NOT deleted;

        CREATE TRIGGER jobs_added_to_search AFTER INSERT ON jobs
        BEGIN
            INSERT INTO prompt_search (rowid, prompt)
                VALUES (new.id, json_extract(new.request, '$.prompt'));
        END;

        CREATE TRIGGER jobs_changed_in_search AFTER UPDATE OF request, deleted ON jobs
        BEGIN
            DELETE FROM prompt_search WHERE rowid = old.id;
            INSERT INTO prompt_search (rowid, prompt)
                SELECT new.id, json_extract(new.request, '$.prompt') WHERE NOT new.deleted;
        END;

        CREATE TRIGGER jobs_removed_from_search AFTER DELETE ON jobs
        BEGIN
            DELETE FROM prompt_search WHERE rowid = old.id;
        END;
        """
    )


def m004_resuming(db: sqlite_utils.Database) -> None:
    """Add the weight of a job, and whether its message shows that the job was cancelled."""
    db.executescript(
        """
        ALTER TABLE jobs ADD COLUMN weight REAL NOT NULL DEFAULT 1.0 CHECK (weight > 0);
        -- Whether the message of a cancelled job says that it is one.
        ALTER TABLE jobs ADD COLUMN withdrawn INTEGER NOT NULL DEFAULT 0
            CHECK (withdrawn IN (0, 1));
        -- Nobody knows it of those before, and old messages are better left alone.
        UPDATE jobs SET withdrawn = 1 WHERE status = 'cancelled';
        """
    )


def m005_removing(db: sqlite_utils.Database) -> None:
    """Add whether the message of a deleted job was deleted too."""
    db.executescript(
        """
        ALTER TABLE jobs ADD COLUMN message_removed INTEGER NOT NULL DEFAULT 0
            CHECK (message_removed IN (0, 1));
        UPDATE jobs SET message_removed = 1 WHERE deleted;
        """
    )


_M006_OLD_SEARCH: Final = """
        DROP TRIGGER jobs_added_to_search;
        DROP TRIGGER jobs_changed_in_search;
        DROP TRIGGER jobs_removed_from_search;
        DROP TABLE prompt_search;
"""
_M006_INDEXES: Final = """
        CREATE INDEX jobs_in_history ON jobs (user_id, id)
            WHERE status IN ('generated', 'delivered', 'failed') AND NOT deleted;
        CREATE INDEX jobs_unwithdrawn ON jobs (id)
            WHERE status = 'cancelled' AND NOT withdrawn AND NOT deleted;
        CREATE INDEX jobs_unremoved ON jobs (id)
            WHERE deleted AND NOT message_removed AND message_id IS NOT NULL;
        CREATE INDEX pictures_removing ON pictures (sha256) WHERE state = 'removing';
        -- Only to count them.
        CREATE INDEX jobs_kept ON jobs (status) WHERE NOT deleted;
"""
_M006_SEARCH_TABLES: Final = """
        -- The members of whom jobs are indexed.
        CREATE TABLE search_members (
            number INTEGER PRIMARY KEY,
            user_id INTEGER NOT NULL UNIQUE
        );
        CREATE VIRTUAL TABLE prompt_search USING fts5 (
            member,
            prompt,
            -- Each beginning has its own list, or FTS5 would merge those of all words with it.
            prefix = '1 2 3 4 5 6',
            columnsize = 0,
            tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co So'"
        );
"""
_M006_SEARCH_TRIGGERS: Final = """
        CREATE TRIGGER jobs_added_to_search AFTER INSERT ON jobs
        WHEN new.status IN ('generated', 'delivered', 'failed') AND NOT new.deleted
        BEGIN
            INSERT INTO search_members (user_id) VALUES (new.user_id) ON CONFLICT DO NOTHING;
            INSERT INTO prompt_search (rowid, member, prompt)
                SELECT number << 32 | new.id, number, json_extract(new.request, '$.prompt') || iif(
                    json_extract(new.request, '$.read_prompt')
                        <> json_extract(new.request, '$.prompt'),
                    ' ' || json_extract(new.request, '$.read_prompt'),
                    ''
                )
                FROM search_members WHERE user_id = new.user_id;
        END;

        CREATE TRIGGER jobs_changed_in_search
        AFTER UPDATE OF id, user_id, status, request, deleted ON jobs
        WHEN (old.status IN ('generated', 'delivered', 'failed') AND NOT old.deleted
                OR new.status IN ('generated', 'delivered', 'failed') AND NOT new.deleted)
            AND (
                (old.status IN ('generated', 'delivered', 'failed') AND NOT old.deleted)
                    <> (new.status IN ('generated', 'delivered', 'failed') AND NOT new.deleted)
                OR (old.id, old.user_id, old.request) <> (new.id, new.user_id, new.request)
            )
        BEGIN
            DELETE FROM prompt_search WHERE rowid = (
                SELECT number << 32 | old.id FROM search_members WHERE user_id = old.user_id
            );
            DELETE FROM search_members WHERE user_id = old.user_id AND NOT EXISTS (
                SELECT 1 FROM jobs WHERE user_id = old.user_id
                    AND status IN ('generated', 'delivered', 'failed') AND NOT deleted
            );
            INSERT INTO search_members (user_id)
                SELECT new.user_id WHERE new.status IN ('generated', 'delivered', 'failed')
                    AND NOT new.deleted
                ON CONFLICT DO NOTHING;
            INSERT INTO prompt_search (rowid, member, prompt)
                SELECT number << 32 | new.id, number, json_extract(new.request, '$.prompt') || iif(
                    json_extract(new.request, '$.read_prompt')
                        <> json_extract(new.request, '$.prompt'),
                    ' ' || json_extract(new.request, '$.read_prompt'),
                    ''
                )
                FROM search_members WHERE user_id = new.user_id
                    AND new.status IN ('generated', 'delivered', 'failed') AND NOT new.deleted;
        END;

        CREATE TRIGGER jobs_removed_from_search AFTER DELETE ON jobs
        WHEN old.status IN ('generated', 'delivered', 'failed') AND NOT old.deleted
        BEGIN
            DELETE FROM prompt_search WHERE rowid = (
                SELECT number << 32 | old.id FROM search_members WHERE user_id = old.user_id
            );
            DELETE FROM search_members WHERE user_id = old.user_id AND NOT EXISTS (
                SELECT 1 FROM jobs WHERE user_id = old.user_id
                    AND status IN ('generated', 'delivered', 'failed') AND NOT deleted
            );
        END;
"""
_M006_BACKLOG: Final = """
        INSERT INTO search_members (user_id)
            SELECT DISTINCT user_id FROM jobs
            WHERE status IN ('generated', 'delivered', 'failed') AND NOT deleted ORDER BY user_id;

        -- How far the jobs from before are indexed: one row until all are, then none.
        CREATE TABLE search_backlog (user_id INTEGER NOT NULL, job_id INTEGER NOT NULL);
        INSERT INTO search_backlog
            SELECT user_id, 0 FROM search_members ORDER BY user_id LIMIT 1;
"""


def m006_search_by_member(db: sqlite_utils.Database) -> None:
    """Sort the search index by member, and add indexes for frequent queries.

    The rowid of a row in `prompt_search` is member number * 2^32 + job id. So a search reads the
    rows of one member only, newest first, however many pictures other members have. The trigger
    indexes both the typed prompt and the prompt that the model read: the word "pizza" and its
    emoji. Failed jobs are indexed even without pictures; the history query leaves those out.
    `indexing.catch_up` adds the rows of older jobs later, in portions.
    """
    db.executescript(_M006_OLD_SEARCH)
    db.executescript(_M006_INDEXES)
    db.executescript(_M006_SEARCH_TABLES)
    db.executescript(_M006_SEARCH_TRIGGERS)
    db.executescript(_M006_BACKLOG)


def m007_age_restricted(db: sqlite_utils.Database) -> None:
    """Add whether the channel of a job was age-restricted when the job was created."""
    db.executescript(
        """
        ALTER TABLE jobs ADD COLUMN age_restricted INTEGER NOT NULL DEFAULT 0
            CHECK (age_restricted IN (0, 1));
        """
    )


def m008_tokens(db: sqlite_utils.Database) -> None:
    """Add a random token to each job: other databases have jobs with the same number."""
    db.executescript(
        """
        ALTER TABLE jobs ADD COLUMN token TEXT;
        UPDATE jobs SET token = lower(hex(randomblob(6)));
        """
    )


def m009_forgetting(db: sqlite_utils.Database) -> None:
    """Add who cancelled or deleted a job, and clear the content of jobs deleted earlier."""
    db.executescript(
        """
        -- 'owner', 'moderator' or 'discord'; of a moderator, who it was.
        ALTER TABLE jobs ADD COLUMN ended_by TEXT;
        ALTER TABLE jobs ADD COLUMN ended_by_id INTEGER;
        -- The deleted images whose files may still hold their recipes.
        CREATE INDEX images_unstripped ON images (sha256) WHERE recipe = '[]';

        -- The sources of jobs that came to nothing.
        UPDATE pictures SET state = 'removing'
        WHERE state = 'kept'
            AND sha256 IN (SELECT source_sha256 FROM jobs WHERE status IN ('cancelled', 'failed'))
            AND NOT EXISTS (
                SELECT 1 FROM images WHERE images.sha256 = pictures.sha256 AND NOT deleted
            )
            AND NOT EXISTS (
                SELECT 1 FROM jobs WHERE source_sha256 = pictures.sha256 AND NOT jobs.deleted
                    AND jobs.status <> 'cancelled'
                    AND (
                        jobs.status <> 'failed'
                        OR EXISTS (SELECT 1 FROM images AS made WHERE made.job_id = jobs.id)
                    )
            );

        UPDATE images SET recipe = iif(
            sha256 IN (SELECT sha256 FROM pictures WHERE state = 'kept'), '[]', '{}'
        )
        WHERE deleted;
        UPDATE jobs SET user_id = 0, origin = NULL, request = '{}', error = NULL, weight = 1.0,
            parent_image_id = NULL, source_sha256 = NULL
        WHERE deleted;
        UPDATE jobs SET message_id = NULL, channel_id = 0, guild_id = NULL
        WHERE deleted AND message_removed;
        """
    )


def m010_places(db: sqlite_utils.Database) -> None:
    """Index jobs by channel and by server, to delete the jobs of a deleted channel or server."""
    db.executescript(
        """
        CREATE INDEX jobs_in_channel ON jobs (channel_id) WHERE NOT deleted;
        CREATE INDEX jobs_in_guild ON jobs (guild_id) WHERE NOT deleted;
        """
    )


def m011_guilds(db: sqlite_utils.Database) -> None:
    """Add the servers that the bot is in, at first those of the stored jobs."""
    db.executescript(
        """
        CREATE TABLE guilds (
            guild_id INTEGER PRIMARY KEY,
            -- The bot's account that is there; NULL where it is not known.
            account_id INTEGER
        );
        INSERT INTO guilds (guild_id)
            SELECT DISTINCT guild_id FROM jobs WHERE guild_id IS NOT NULL AND NOT deleted;
        """
    )


def m012_references(db: sqlite_utils.Database) -> None:
    """Add the references of a job: pictures that a model for editing looks at, in their order."""
    db.executescript(
        """
        CREATE TABLE job_references (
            job_id INTEGER NOT NULL REFERENCES jobs (id),
            position INTEGER NOT NULL,
            sha256 TEXT NOT NULL REFERENCES pictures (sha256),
            PRIMARY KEY (job_id, position)
        ) WITHOUT ROWID;
        CREATE INDEX job_references_by_picture ON job_references (sha256);
        """
    )


STEPS: Final[tuple[Callable[[sqlite_utils.Database], None], ...]] = (
    m001_jobs,
    m002_images,
    m003_prompt_search,
    m004_resuming,
    m005_removing,
    m006_search_by_member,
    m007_age_restricted,
    m008_tokens,
    m009_forgetting,
    m010_places,
    m011_guilds,
    m012_references,
)
