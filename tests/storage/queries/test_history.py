from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.jobs import JobStore
from storage.queries.fts5 import words_query
from storage.records import HistoryEntry, JobKind
from storage.states import JobStatus

from ..inspection import history, open_jobs
from ..samples import finished, new_job, request

PROMPTS = [
    "a cute rabbit, octane render",
    "Octane-style racing car",
    "un café à Paris 🐰",
    "可爱的兔子",
    'the word "NOT" OR nothing*',
]


async def show(store: JobStore, prompt: str, **values: object) -> int:
    """Store a job that the history shows, and return its id."""
    job = await store.add(new_job(prompt, **values))
    await store.start(job.id)
    await store.complete(job.id, finished(job.request))
    return job.id


@dataclass
class Searched:
    runner: asyncio.Runner
    store: JobStore

    def prompts(self, query: str) -> list[str]:
        return [entry.prompt for entry in self.runner.run(history(self.store, 1, query, 100))]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    folder: Path = tmp_path_factory.mktemp("data")
    with asyncio.Runner() as runner:
        opening = open_jobs(folder)
        store = runner.run(opening.__aenter__())
        for prompt in PROMPTS:
            runner.run(show(store, prompt))
        yield Searched(runner, store)
        runner.run(opening.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("rabb", [0]),
        ("RABBIT", [0]),
        ("oct", [1, 0]),
        ("octane-st", [1]),
        ("render cute", [0]),
        ("cute car", []),
        ("abbit", []),
        ("cafe", [2]),
        ("🐰", [2]),
        ("可爱", [3]),
        ("not", [4]),
        ("NOT", [4]),
        ('"not"', [4]),
        ("rabbit OR car", []),
        ("nothing*", [4]),
        ("prompt:rabbit", []),
        ("cute ***", [0]),
        ("dragon", []),
        ("1", [0]),
        ("#2", [1]),
        ("99999999999999999999", []),
        ("", [4, 3, 2, 1, 0]),
        ("  \x00 ", [4, 3, 2, 1, 0]),
        ("***", [4, 3, 2, 1, 0]),
    ],
)
def test_a_search_as_you_type_finds(searched: Searched, query: str, found: list[int]) -> None:
    assert searched.prompts(query) == [PROMPTS[index] for index in found]


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(exclude_categories=()), max_size=60)
    | st.text("\"*-:^+(){}\\'\x00 aNOTRED", max_size=60)
    | st.lists(st.sampled_from(["AND", "OR", "NOT", "NEAR(", '"', "prompt:", "a", "²"])).map(
        " ".join
    )
)
def test_no_text_breaks_the_search(searched: Searched, query: str) -> None:
    assert set(searched.prompts(query)) <= set(PROMPTS)


words = st.sampled_from(["a", "an", "and", "ant", "be", "bee", "or", "near", "not", "7"])


@settings(max_examples=20, deadline=None)
@given(
    prompts=st.lists(st.lists(words, min_size=1).map(" ".join), max_size=5),
    query=st.lists(st.sampled_from(["a", "an", "b", "be", "bee", "not", "n", "7x"]), min_size=1),
)
async def test_a_search_finds_what_a_plain_comparison_finds(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], query: list[str]
) -> None:
    async with open_jobs(tmp_path_factory.mktemp("data")) as store:
        for prompt in prompts:
            await show(store, prompt)
        found = [entry.prompt for entry in await history(store, 1, " ".join(query), 100)]
    expected = [
        prompt
        for prompt in reversed(prompts)
        if all(any(word.startswith(start) for word in prompt.split()) for start in query)
    ]
    assert found == expected


async def test_a_very_long_query_is_no_error(store: JobStore) -> None:
    await show(store, "rabbit")
    assert await history(store, 1, "nothing " * 5_000, 10) == []
    assert len(await history(store, 1, "rabbit " * 5_000, 10)) == 1
    assert await history(store, 1, "7" * 5_000, 10) == []


async def test_people_see_only_their_own_finished_jobs(store: JobStore) -> None:
    mine = await show(store, "rabbit")
    await show(store, "rabbit", user_id=2)
    queued = await store.add(new_job("rabbit"))
    for query in ("", "rabbit", f"{mine}"):
        assert [entry.job_id for entry in await history(store, 1, query, 10)] == [mine]
    assert await history(store, 2, str(mine), 10) == []
    assert await history(store, 1, str(queued.id), 10) == []


async def test_a_history_is_cut_at_its_limit_from_the_newest(store: JobStore) -> None:
    numbers = [await show(store, f"rabbit number {n}") for n in range(4)]
    found = [entry.job_id for entry in await history(store, 1, "rabbit", 2)]
    assert found == [numbers[3], numbers[2]]
    assert await history(store, 1, "rabbit", 0) == []


async def test_an_entry_says_where_and_how_a_picture_was_made(store: JobStore) -> None:
    job = await store.add(new_job(kind=JobKind.RERUN, request=request("owl 🦉", seed=9, count=2)))
    await store.start(job.id)
    await store.complete(job.id, finished(job.request))
    await store.delivered(job.id, 77)
    assert await history(store, 1, "owl", 10) == [
        HistoryEntry(
            job_id=job.id,
            prompt="owl 🦉",
            kind=JobKind.RERUN,
            status=JobStatus.DELIVERED,
            seed=9,
            count=2,
            created_at=job.created_at,
            guild_id=2,
            channel_id=3,
            message_id=77,
        )
    ]


def test_a_long_text_costs_only_a_few_lookups() -> None:
    for text in ("a b " * 1_500, " ".join(map(str, range(1_000))), "x" * 6_000):
        query = words_query(text)
        assert query is not None
        assert query.count('"*') <= 8
        assert len(query) < 150
    assert words_query("owl cat owl") == '"owl"* "cat"*'
