"""The training commands as they are really started: on several processes, with workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from generation.starter.training.learning.autoencoder import AutoencoderTask
from generation.starter.training.learning.progress import Schedule, read
from generation.starter.training.learning.trainer import Settings, train

from .album import TINY, album

pytestmark = pytest.mark.rare

COMMANDS = "tests.generation.starter.on_processes"
PATIENCE = 120.0


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder that holds an autoencoder, and nothing that is made on first use."""
    train(
        AutoencoderTask(album(), TINY, 0), Settings(4, Schedule(1e-2, warmup=2)), tmp_path, until=1
    )
    return tmp_path


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start Python in a group of processes of its own, one thread each."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_processes_make_what_is_missing_once_and_train_one_network(work: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    task = ("reading", "--scenes", "60", "--steps", "3", "--batch", "8", "--work", str(work))
    process = start(*torchrun, "-m", COMMANDS, *task)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert said.count("drawn: tiny") == 1
    assert not list(work.glob("**/*.partial"))
    state = read(work / "reading.pt")
    assert state is not None
    assert (state["step"], state["images"]) == (3, 24)
    # They saw different captions; only gradients that are shared come to the same weights.
    first, second = (work / f"weights-{rank}.sha256" for rank in range(2))
    assert first.read_text() == second.read_text()
    assert all(value.isfinite().all() for value in state["network"].values())


def test_a_group_that_is_stopped_leaves_a_checkpoint(work: Path) -> None:
    task = ("reading", "--scenes", "60", "--batch", "8", "--save", "1000000", "--workers", "2")
    process = start("-m", COMMANDS, *task, "--work", str(work))
    log, until = work / "reading.jsonl", time.monotonic() + PATIENCE
    while not log.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert not (work / "reading.pt").exists()
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    state = read(work / "reading.pt")
    assert state is not None
    assert state["step"] >= 20
    assert torch.isfinite(state["average"]["head.weight"]).all()
