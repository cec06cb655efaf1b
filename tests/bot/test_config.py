from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.config import Settings, load_settings
from bot.errors import ConfigError
from bot.listing import ListedLora, ListedModel

ROOT = Path(__file__).parents[2]


def test_the_example_holds_every_key_with_its_default() -> None:
    file = ROOT / "config.example.toml"
    assert load_settings(file) == Settings()
    keys = set(re.findall(r"^(?:# )?(\w+) = ", file.read_text("utf-8"), re.MULTILINE))
    listed = {*ListedModel.model_fields, *ListedLora.model_fields}
    assert keys | {"models", "loras"} == {*Settings.model_fields, *listed}


def test_the_readme_lists_every_key() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    listed = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert set(Settings.model_fields) <= listed


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("step_timeout = 1", "sets step_timeout to 1; it should be greater than or equal to 5"),
        ("load_timeout = 5", "sets load_timeout to 5; it should be greater than or equal to 30"),
        ("min_free_mb = -1", "sets min_free_mb to -1; it should be greater than or equal to 0"),
        ('previews = "maybe"', "sets previews to 'maybe'; it should be a valid boolean"),
        ("compiled = true", "did you mean 'compile'?"),
        (r'data = "a\u0000b"', r"sets data to 'a\x00b'; it should be a path, which holds no NUL"),
        (r'token_file = "a\u0000"', "sets token_file to a secret; it should be a path"),
        ("step_timeout = nan", "sets step_timeout to nan; it should be a finite number"),
        ("role_weights = { admin = 2.0 }", "sets role_weights for 'admin'; use ids, which are"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(
    tmp_path: Path, line: str, complaint: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(line)
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        load_settings(file)


def test_a_file_without_an_end_is_no_config() -> None:
    with pytest.raises(ConfigError, match=r"^/dev/zero is larger than any config; "):
        load_settings(Path("/dev/zero"))


def test_more_steps_than_anybody_may_ask_for_are_no_default(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("max_steps = 10\nsteps = 20")
    with pytest.raises(ConfigError, match=r"steps is 20 and max_steps 10, so a request"):
        load_settings(file)
    file.write_text("max_steps = 10\nsteps = 10")
    assert load_settings(file).steps == 10


def test_the_environment_sets_what_a_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGINE_BOT_DETERMINISTIC", "true")
    monkeypatch.setenv("IMAGINE_BOT_COMPILE", "1")
    monkeypatch.setenv("IMAGINE_BOT_STEP_TIMEOUT", "7.5")
    settings = load_settings()
    assert (settings.deterministic, settings.compile, settings.step_timeout) == (True, True, 7.5)


def test_the_token_has_its_own_name_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")
    for name in ("DISCORD_TOKEN", "IMAGINE_BOT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Of another program: it must not be sent to Discord.
    monkeypatch.setenv("TOKEN", "of another program")
    assert load_settings(file).token is None

    def token() -> str:
        found = load_settings(file).token
        assert found is not None
        return found.get_secret_value()

    file.write_text('token = "file"')
    assert token() == "file"
    monkeypatch.setenv("IMAGINE_BOT_TOKEN", "bot")
    assert token() == "bot"
    monkeypatch.setenv("DISCORD_TOKEN", "discord")
    assert token() == "discord"
    file.write_text('DISCORD_TOKEN = "file"')
    with pytest.raises(ConfigError, match="unknown key 'DISCORD_TOKEN'"):
        load_settings(file)


def test_all_faults_of_all_sources_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'modle = "x"\nqueue_limit = 0\nprogress_seconds = "often"\nmax_steps = 5\n'
        "role_weights = { admin = 2.0, 1 = -1.0 }"
    )
    monkeypatch.setenv("IMAGINE_BOT_MEMBER_LIMIT", "few")
    monkeypatch.setenv("IMAGINE_BOT_STEPS", "20")
    monkeypatch.setenv("IMAGINE_BOT_QUEUE_LIMITS", "3")
    monkeypatch.setenv("IMAGINE_BOT_ROLE_WEIGHTS", "admin")
    with pytest.raises(ConfigError) as error:
        load_settings(file, model="")
    assert sorted(sentence.removeprefix(f"{file} ") for sentence in error.value.sentences) == [
        "has an unknown key 'modle'; did you mean 'model'?",
        "sets progress_seconds to 'often'; it should be a valid number.",
        "sets queue_limit to 0; it should be greater than or equal to 1.",
        "sets role_weights for 'admin'; use ids, which are numbers.",
        "sets role_weights.1 to -1.0; it should be greater than 0.",
        "steps is 20 and max_steps 5, so a request without steps would be refused; set "
        "steps to at most max_steps.",
        "the command line sets model to ''; it should be some text, or be left out.",
        "the environment has an unknown key 'IMAGINE_BOT_QUEUE_LIMITS'; did you mean "
        "'IMAGINE_BOT_QUEUE_LIMIT'?",
        "the environment sets IMAGINE_BOT_MEMBER_LIMIT to 'few'; it should be a valid integer.",
        "the environment sets IMAGINE_BOT_ROLE_WEIGHTS to 'admin'; it should be JSON, as "
        "config.example.toml shows.",
    ]


@pytest.mark.parametrize("text", ["token = 12345678", 'model = { token = "12345678" }'])
def test_no_fault_shows_a_secret(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="to a secret; it should be a valid string") as error:
        load_settings(file)
    assert "12345678" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["steps = " + "9" * 5000, "steps = " + "[" * 20_000, "a = 1\na = 2", "token = 'secret\n"],
    ids=["digits", "depth", "twice", "quote"],
)
def test_a_file_that_is_no_toml_gets_a_sentence_and_hides_no_other_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    monkeypatch.setenv("IMAGINE_BOT_QUEUE_LIMIT", "lots")
    with pytest.raises(ConfigError) as error:
        load_settings(file)
    assert len(error.value.sentences) == 2
    assert f"{file} is not valid TOML" in error.value.sentences[0]
    assert "secret" not in str(error.value)
