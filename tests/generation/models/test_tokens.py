from __future__ import annotations

import itertools
import logging
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from generation.models.stable_diffusion import StableDiffusion
from generation.models.text.tokens import TokenizedPrompt, tokenize
from generation.values.spelling import spell_emoji

from ..pipelines import byte_tokenizer

# Words that are one token each for the starter model.
WORDS = ("rabbit", "face", "red", "apple", "on", "blue", "background", "cat")
# Of its tokens a prompt may fill the first, with the two marks.
STARTER_LIMIT, STARTER_MOST, STARTER_ROOM = 56, 23, 21
# For the tokenizer that knows bytes, a token is a byte of UTF-8.
BYTES = byte_tokenizer()
BYTES_LIMIT, BYTES_ROOM = 77, 75


@pytest.fixture(scope="module")
def starter_tokenizer(starter: StableDiffusion) -> Any:
    limits = (starter.profile.token_limit, starter.profile.prompt_limit)
    assert limits == (STARTER_LIMIT, STARTER_MOST)
    return starter.tokenizer


def starter_prompt(tokenizer: Any, text: str) -> TokenizedPrompt:
    return tokenize(tokenizer, text, STARTER_LIMIT, STARTER_MOST)


def words(count: int) -> list[str]:
    return list(itertools.islice(itertools.cycle(WORDS), count))


EMOJI = {"🦉": "owl", "🐻": "bear", "🐻\u200d❄": "polar bear", "❤": "red heart"}


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("🦉", "owl"),
        ("a 🦉 on a blue background", "a owl on a blue background"),
        ("🦉🦉 next to🐻", "owl owl next to bear"),
        ("🐻\u200d❄\ufe0f and ❤\ufe0f", "polar bear and red heart"),
        ("❤", "red heart"),
        ("  two  spaces, é, 🐙 and ❄\ufe0f ", "  two  spaces, é, 🐙 and ❄\ufe0f "),
    ],
)
def test_emoji_are_read_by_their_names(typed: str, read: str) -> None:
    assert spell_emoji(typed, EMOJI) == read


@given(
    st.text(
        st.sampled_from(
            [*"".join(EMOJI), "\ufe0f", "\n", " ", "x", "é", "🐙", "“", "<", ":", "\u200d", "ل"]
        )
    )
)
@example("\ufe0f\u200d\ufe0f")
def test_a_prompt_is_read_the_same_when_it_is_read_again(text: str) -> None:
    read = spell_emoji(text, EMOJI)
    assert spell_emoji(read, EMOJI) == read
    assert "“" not in read


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=40))
def test_plain_words_in_ascii_are_read_as_they_are(text: str) -> None:
    plain = "".join(char for char in text if char.isascii() and char.isalnum())
    assert spell_emoji(plain, EMOJI) == plain


@given(st.text(max_size=200))
def test_any_text_can_be_read_and_has_nothing_invisible(text: str) -> None:
    read = spell_emoji(text, EMOJI)
    assert not any(unicodedata.category(char) == "Cc" and char not in "\t\n\r" for char in read)
    assert not set(read) & set("\u200b\u202e\u2066\ufeff\u00ad")


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("“a rabbit” on a blue background", '"a rabbit" on a blue background'),
        ("it’s a cat — or … a ｄｏｇ", "it's a cat - or ... a dog"),
        ("\u200ba ra\u00adbbit\ufeff \u202eon\u2069 blue", "a rabbit on blue"),
        ("a\u00a0red\u3000apple", "a red apple"),
        ("𝓯𝓪𝓷𝓬𝔂 ﬁsh, 1½ pizzas", "fancy fish, 1 1/2 pizzas"),
        ("cafe\u0301", "café"),
        ("<:rabbit:1234567890123456789> on blue", "rabbit on blue"),
        ("<a:HappyCat_2~1:123456789012345678>", "Happy Cat 2"),
        (
            "<@123456789012345678> and <@&123456789012345678> on a horse",
            "somebody and people on a horse",
        ),
        ("@Alice on a #horse", "Alice on a horse"),
        ("</imagine:123456789012345678> <t:0:R> <#123456789012345678> owl", "imagine owl"),
        (":red_apple: at 12:30:45, 16:9", "red apple at 12:30:45, 16:9"),
        ("cat <|endoftext|> dog", "cat dog"),
        ("cat <|end\u200boftext|> dog", "cat dog"),
        ("a\u3164cat\u2800on\uffa0 blue\u115f", "a cat on blue"),
        ("a ca\u034ft \u3164", "a cat"),
        ("\u2800\u3164\u1160", ""),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚀 and 🧟🏽\u200d♂\ufe0f", "👩\u200d🚀 and 🧟🏽\u200d♂\ufe0f"),
        ("🐻🏽\u200d♂\ufe0f", "bear"),
        ("🇩🇪 🏴\U000e0067\U000e0062\U000e007f", "🇩🇪 🏴\U000e0067\U000e0062\U000e007f"),
    ],
)
def test_prompts_as_phones_and_discord_write_them_are_read_plainly(typed: str, read: str) -> None:
    assert spell_emoji(typed, EMOJI) == read


@pytest.mark.parametrize(
    ("text", "same_as", "unread"),
    [
        ("a “rabbit” face.", "a rabbit face", ""),
        ("a naïve Rabbit café", "a naive rabbit cafe", ""),
        ("猫 cat face", "cat face", "猫"),
        ("猫cat face", "cat face", "猫"),
        ("a cat and 👩\u200d🚀", "a cat and", "👩\u200d🚀"),
        ("кот 猫", "", "кот 猫"),
        ("cat•dog·rabbit", "cat dog rabbit", ""),
        ("cat×dog", "cat dog", "×"),
    ],
)
def test_what_the_tokenizer_does_not_know_is_left_out_and_told(
    starter_tokenizer: Any, text: str, same_as: str, unread: str
) -> None:
    found = starter_prompt(starter_tokenizer, text)
    assert found == TokenizedPrompt(starter_prompt(starter_tokenizer, same_as).ids, unread)
    end = starter_tokenizer.eos_token_id
    read = found.ids[1 : found.ids.index(end)]
    assert set(found.ids[len(read) + 1 :]) == {end}


def test_a_prompt_of_one_strange_word_many_times_is_read_in_a_moment(
    starter_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def encode(tokenizer: Any, text: str) -> Any:
        asked.append(text)
        return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    monkeypatch.setattr("generation.models.text.tokens._encode", encode)
    # The longest that 1,000 characters become: each of these is read as 18.
    starter_prompt(starter_tokenizer, spell_emoji("\ufdfa" * 555, EMOJI))
    assert len(asked) < 60


def test_what_was_not_read_stands_before_what_did_not_fit(starter_tokenizer: Any) -> None:
    found = starter_prompt(starter_tokenizer, " ".join(["猫", *words(STARTER_ROOM), "owl", "кот"]))
    assert found.unread == "猫 owl"


def test_pictures_from_before_are_made_again_with_what_is_unknown(starter_tokenizer: Any) -> None:
    limits = (STARTER_LIMIT, STARTER_MOST)
    before = tokenize(starter_tokenizer, "a cat. face", *limits, keeps_unknown=True)
    assert before.ids[3] == starter_tokenizer.eos_token_id
    assert starter_prompt(starter_tokenizer, "a cat. face").ids != before.ids


@pytest.mark.parametrize("count", [1, STARTER_ROOM - 1, STARTER_ROOM])
def test_nothing_of_a_prompt_that_fits_is_unread(starter_tokenizer: Any, count: int) -> None:
    assert starter_prompt(starter_tokenizer, " ".join(words(count))).unread == ""


@pytest.mark.parametrize("count", [STARTER_ROOM + 1, STARTER_ROOM + 2, 150])
@pytest.mark.parametrize("between", [" ", "  \n", "\t "])
def test_what_was_cut_is_said_in_the_words_that_were_typed(
    starter_tokenizer: Any, count: int, between: str
) -> None:
    typed = [word.title() for word in words(count)]
    found = starter_prompt(starter_tokenizer, between.join(typed))
    assert found.unread == between.join(typed[STARTER_ROOM:])


def test_the_comma_that_does_not_fit_is_the_first_that_is_unread(starter_tokenizer: Any) -> None:
    text = " ".join(words(STARTER_ROOM)) + ", octane render "
    assert starter_prompt(starter_tokenizer, text).unread == ", octane render"


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_text_is_all_marks(starter_tokenizer: Any, text: str) -> None:
    found = starter_prompt(starter_tokenizer, text)
    assert found.unread == ""
    assert found.ids == (
        starter_tokenizer.bos_token_id,
        *[starter_tokenizer.eos_token_id] * (STARTER_LIMIT - 1),
    )


@pytest.mark.parametrize("count", [STARTER_ROOM, STARTER_ROOM + 1, STARTER_LIMIT])
def test_after_what_a_prompt_may_fill_there_is_padding(starter_tokenizer: Any, count: int) -> None:
    found = starter_prompt(starter_tokenizer, " ".join(words(count)))
    read = starter_tokenizer(" ".join(words(STARTER_ROOM))).input_ids
    assert len(read) == STARTER_MOST
    padding = [starter_tokenizer.pad_token_id] * (STARTER_LIMIT - STARTER_MOST)
    assert found.ids == (*read, *padding)


@given(st.text(max_size=200))
def test_a_prompt_always_has_the_models_length_between_its_marks(text: str) -> None:
    found = tokenize(BYTES, text, BYTES_LIMIT)
    assert len(found.ids) == BYTES_LIMIT
    assert found.ids[0] == BYTES.bos_token_id
    assert found.ids[-1] == BYTES.eos_token_id
    assert found.unread in text
    if found.unread:
        assert text.rstrip().endswith(found.unread)


@given(st.text("xyz019!é🦔🐇中 \n", max_size=150))
def test_what_is_unread_starts_at_the_first_character_that_is_not_whole(text: str) -> None:
    ends = itertools.accumulate(0 if c.isspace() else len(c.encode()) for c in text)
    cut = next((index for index, end in enumerate(ends) if end > BYTES_ROOM), len(text))
    found = tokenize(BYTES, text, BYTES_LIMIT)
    assert found.unread == text[cut:].strip()
    # The pipeline of diffusers tokenizes in this way.
    padded = BYTES(text, padding="max_length", max_length=BYTES_LIMIT, truncation=True)
    assert found.ids == tuple(padded.input_ids)


def test_an_emoji_of_many_characters_is_unread_from_where_it_was_cut() -> None:
    # A family is five characters, 18 bytes: four families are 72 bytes, so that only the
    # three first bytes of the fifth could be read, which are less than its first person.
    family = "👩\u200d👩\u200d👦"
    assert tokenize(BYTES, family * 5, BYTES_LIMIT).unread == family


def test_letters_that_are_composed_on_the_way_do_not_shift_the_cut() -> None:
    # An e and its accent are two characters as typed and one, of two bytes, as read.
    typed = "e\u0301" * 40
    assert tokenize(BYTES, typed, BYTES_LIMIT).unread == "e\u0301" * 3


def test_a_mark_that_somebody_types_ends_no_text() -> None:
    text = "<|endoftext|>" * BYTES_ROOM + "x"
    assert tokenize(BYTES, text, BYTES_LIMIT) == tokenize(BYTES, "x", BYTES_LIMIT)
    before = tokenize(BYTES, text, BYTES_LIMIT, keeps_unknown=True)
    assert before.unread == "x"


def test_a_long_prompt_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    # A tokenizer warns once in its life, so this takes a new one.
    tokenizer = byte_tokenizer()
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert tokenize(tokenizer, "x" * 500, BYTES_LIMIT).unread
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.records == []
