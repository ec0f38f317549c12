"""`adamctl restore`: all that was uploaded comes back, or nothing is called a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_checkpoint import make_uploading_run, write_checkpoint

from adam.contract.checkpoints import verify
from adam.contract.config_file import load_config
from adam.contract.far import FAR_MANIFEST
from adam.contract.paths import RunPaths
from adam.contract.shards import data_ready
from adam.contract.states import Exit

NAME = "step-00000040-a01"


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A place that a run was uploaded to."""
    far = tmp_path / "far"
    paths = make_uploading_run(tmp_path / "run", target=f"file://{far}")
    paths.outbox.mkdir()
    write_checkpoint(paths, 40)
    job = [
        sys.executable,
        "-P",
        "-m",
        "adam.watchdog.upload_job",
        "--run",
        str(paths.root),
        "--parent",
        str(os.getpid()),
    ]
    done = subprocess.run(
        [*job, "--checkpoint", NAME, "--weights", "--state"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["trouble"] is None
    return far


def restore(far: str, target: Path, expect: Exit = Exit.OK) -> str:
    command = [sys.executable, "-P", "-m", "adam.daemon", "restore", far, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=target.parent, check=False)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_all_of_a_run_comes_back(far: Path, tmp_path: Path) -> None:
    assert "step 40" in restore(f"file://{far}", tmp_path / "back")
    before, back = RunPaths(tmp_path / "run"), RunPaths(tmp_path / "back")
    verify(back.checkpoints / NAME)
    assert data_ready(back) and load_config(back.lock) == load_config(before.lock)
    for directory in ("shards", "tokens", f"checkpoints/{NAME}"):
        found = {path.name: path.read_bytes() for path in (back.root / directory).iterdir()}
        assert found == {path.name: path.read_bytes() for path in (before.root / directory).iterdir()}
    assert back.config.read_bytes() == before.config.read_bytes()
    assert "not an empty directory" in restore(f"file://{far}", back.root, Exit.USAGE)


def test_a_wrong_byte_is_no_run_and_what_arrived_is_kept(far: Path, tmp_path: Path) -> None:
    file = far / "data" / "tokens" / "val.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "other bytes" in restore(f"file://{far}", tmp_path / "back", Exit.CHECKPOINT)
    assert not (tmp_path / "back").exists()
    file.write_bytes(whole)
    kept = next((tmp_path / ".back.restoring").rglob("*.toml"))
    inode = kept.stat().st_ino
    restore(f"file://{far}", tmp_path / "back")
    assert (tmp_path / "back" / kept.name).stat().st_ino == inode  # it was not fetched again
    assert not list(tmp_path.glob(".back*"))


@pytest.mark.parametrize("name", ["../../evil", f"state/{NAME}/../../../evil", "/etc/evil", "elsewhere/file"])
def test_a_name_that_leads_elsewhere_is_refused(far: Path, tmp_path: Path, name: str) -> None:
    manifest = json.loads((far / FAR_MANIFEST).read_text())
    manifest["data"][0]["name"] = name
    (far / FAR_MANIFEST).write_text(json.dumps(manifest))
    assert "none of a run's files" in restore(f"file://{far}", tmp_path / "back", Exit.CHECKPOINT)


def test_places_without_a_state_say_so(far: Path, tmp_path: Path) -> None:
    manifest = json.loads((far / FAR_MANIFEST).read_text())
    (far / FAR_MANIFEST).write_text(json.dumps({**manifest, "state": None}))
    assert "weights only" in restore(f"file://{far}", tmp_path / "back", Exit.CHECKPOINT)
    assert "has no adam.json" in restore(f"file://{tmp_path}/nothing", tmp_path / "back", Exit.CHECKPOINT)
    for url in ("hf://only-one-part", "no-url", "nosuch://place"):
        restore(url, tmp_path / "back", Exit.USAGE)
