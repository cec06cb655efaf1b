"""What `--help` says, and what it loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from generation.values.request import (
    COUNT_MAX,
    GUIDANCE_MAX,
    GUIDANCE_MIN,
    SCHEDULERS,
    SEED_MAX,
    SIZE_MAX,
    SIZE_MIN,
    SIZE_MULTIPLE,
    STEPS_MAX,
    STEPS_MIN,
    STRENGTH_MAX,
    STRENGTH_MIN,
)

from .shell import Shell


def test_help_answers_without_loading_torch_or_discord(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['imagine-bot', '--help']\n"
        "import bot, generation, bot.cli.app\n"
        "try: bot.cli.app.main()\n"
        "except SystemExit: pass\n"
        "loaded = {'torch', 'discord', 'diffusers', 'transformers', 'PIL'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    for command in ("run", "demo", "generate", "replay", "doctor", "backup", "restore"):
        assert command in result.stdout


def test_the_help_of_generate_has_the_limits_of_a_request(shell: Shell) -> None:
    said = " ".join(shell("generate", "--help").stdout.replace("│", " ").split())
    for limits in (
        f"0 to {SEED_MAX}",
        f"{STEPS_MIN} to {STEPS_MAX}",
        f"{GUIDANCE_MIN:g} to {GUIDANCE_MAX:g}",
        f"{SIZE_MIN} to {SIZE_MAX}, a multiple of {SIZE_MULTIPLE}",
        f"1 to {COUNT_MAX}",
        ", ".join(SCHEDULERS),
        f"{STRENGTH_MIN:g}, almost the same, to {STRENGTH_MAX:g}",
    ):
        assert limits in said
