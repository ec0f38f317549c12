"""Uploads with the real huggingface_hub to a stand-in Hub, and with fsspec: what arrives, and what is said where nothing does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_hub import REPO, TOKEN, FakeHub
from safetensors.numpy import load_file
from small_checkpoint import make_uploading_run, uploading_config, write_checkpoint

from adam.contract import far_files
from adam.contract.checkpoints import rank_file
from adam.contract.config_file import write_lock
from adam.contract.hub_token import hub_token
from adam.contract.paths import RunPaths
from adam.watchdog.upload_job import attempt, upload
from adam.watchdog.upload_policy import is_permanent
from adam.watchdog.upload_words import Outcome, Task


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = make_uploading_run(tmp_path / "run", repo=REPO)
    paths.outbox.mkdir()
    return paths


def job(paths: RunPaths, hub: FakeHub, step: int, *what: str, **environment: str) -> Outcome:
    """A job as the uploader starts it."""
    command = [sys.executable, "-P", "-m", "adam.watchdog.upload_job", "--run", str(paths.root)]
    command += [
        "--parent",
        str(os.getpid()),
        "--checkpoint",
        f"step-{step:08d}-a01",
        *(what or ("--weights", "--state")),
    ]
    environ = {**os.environ, **hub.environment, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd="/", timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return msgspec.json.decode(done.stdout, type=Outcome)


def test_weights_and_state_arrive_in_one_commit(paths: RunPaths, hub: FakeHub) -> None:
    hub.exists = False
    checkpoint = write_checkpoint(paths, 40)
    assert job(paths, hub, 40).trouble is None
    assert hub.private and [commit.title for commit in hub.pushes] == ["step 40"]
    for path in (*checkpoint.iterdir(), paths.config, paths.lock):
        assert hub.files[f"state/{checkpoint.name}/{path.name}"] == path.read_bytes()
    for path in paths.tokens.iterdir():
        assert hub.files[f"data/tokens/{path.name}"] == path.read_bytes()
    assert json.loads(hub.files["config.json"])["d_model"] == 16
    card = hub.files["README.md"].decode()
    assert "| a \\| source | files | r1 | CC-BY-4.0 | 1 | 1 | 10 |  |  |" in card and "2,560" in card
    assert not list(paths.outbox.iterdir())


def test_the_weights_are_those_of_the_checkpoint_in_bf16(paths: RunPaths, hub: FakeHub, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(paths, 40)
    job(paths, hub, 40, "--weights")
    fp32 = load_file(checkpoint / rank_file(0))["model.backbone.embedding.weight"]
    header_bytes = int.from_bytes(hub.files["model.safetensors"][:8], "little")
    header = json.loads(hub.files["model.safetensors"][8 : 8 + header_bytes])
    entry = header["backbone.embedding.weight"]
    assert entry["dtype"] == "BF16" and header["__metadata__"]["checkpoint"] == checkpoint.name
    start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
    bits = np.frombuffer(hub.files["model.safetensors"][start:end], "<u2").astype("<u4") << 16
    error = np.abs(bits.view("<f4") - fp32.ravel()) / np.abs(fp32.ravel())
    assert error.max() <= 2.0**-8  # half a unit in the last of bf16's places: rounded to nearest
    assert not any(name.startswith("state/") for name in hub.files)


def test_what_is_there_is_not_sent_again(paths: RunPaths, hub: FakeHub) -> None:
    write_checkpoint(paths, 40)
    assert job(paths, hub, 40).size > 0
    assert job(paths, hub, 40).size == 0
    assert len(hub.pushes) == 1


def test_older_states_go_and_so_does_their_storage(paths: RunPaths, hub: FakeHub) -> None:
    for step in (40, 60):
        write_checkpoint(paths, step)
        assert job(paths, hub, step).trouble is None
    states = {name.split("/")[1] for name in hub.files if name.startswith("state/")}
    assert states == {"step-00000060-a01"} and len(hub.pushes) == 2
    assert sorted(hub.stored.values()) == sorted(
        data for name, data in hub.files.items() if data in hub.stored.values()
    )
    hub.fault("POST", "/lfs-files/batch", 403)
    write_checkpoint(paths, 80)
    said = job(paths, hub, 80)
    assert said.trouble is None and "older uploads can't be deleted" in said.note and "may not write" in said.note


def test_history_is_kept_where_people_want_it(paths: RunPaths, hub: FakeHub) -> None:
    write_lock(paths.lock, uploading_config(repo=REPO, keep_history=True))
    for step in (40, 60):
        write_checkpoint(paths, step)
        job(paths, hub, step, "--weights")
    assert hub.pushes[0].files["model.safetensors"] in hub.stored.values()
    assert hub.files["model.safetensors"] in hub.stored.values()


@pytest.mark.parametrize("status", [401, 403, 404, 413])
@pytest.mark.parametrize("where", [("GET", "/api/models/"), ("POST", "/commit/")])
def test_a_refusal_is_permanent(paths: RunPaths, hub: FakeHub, status: int, where: tuple[str, str]) -> None:
    hub.fault(*where, status, times=99)
    write_checkpoint(paths, 40)
    trouble = job(paths, hub, 40).trouble
    assert trouble is not None and trouble.status == status and is_permanent(trouble)
    assert str(status) in trouble.text and len(hub.pushes) == 0


def test_a_wrong_token_is_a_refusal_too(paths: RunPaths, hub: FakeHub) -> None:
    write_checkpoint(paths, 40)
    trouble = job(paths, hub, 40, HF_TOKEN="hf_wrong").trouble
    assert trouble is not None and is_permanent(trouble) and "hf_wrong" not in trouble.text


@pytest.mark.parametrize("what", [429, 500, 503, "reset"])
def test_a_trouble_that_passes(paths: RunPaths, hub: FakeHub, what: int | str) -> None:
    hub.fault("POST", "/commit/", what, Retry_After="77")
    write_checkpoint(paths, 40)
    trouble = job(paths, hub, 40).trouble
    assert trouble is not None and not is_permanent(trouble)
    assert trouble.retry_after == (77 if isinstance(what, int) else 0)
    assert job(paths, hub, 40).trouble is None and len(hub.pushes) == 1


def test_a_commit_whose_answer_was_lost_is_found_and_not_sent_again(paths: RunPaths, hub: FakeHub) -> None:
    hub.fault("POST", "/commit/", "lost")
    write_checkpoint(paths, 40)
    trouble = job(paths, hub, 40).trouble
    assert trouble is not None and not is_permanent(trouble) and len(hub.pushes) == 1
    again = job(paths, hub, 40)
    assert again.trouble is None and again.size == 0 and len(hub.pushes) == 1


def test_a_commit_of_somebody_else_in_between_is_not_written_over(paths: RunPaths, hub: FakeHub) -> None:
    write_checkpoint(paths, 40)
    hub.fault("POST", "/commit/", 412)
    trouble = job(paths, hub, 40).trouble
    assert trouble is not None and not is_permanent(trouble)


def test_bytes_that_arrive_wrong_are_seen_and_sent_again(paths: RunPaths, hub: FakeHub) -> None:
    write_checkpoint(paths, 40)
    job(paths, hub, 40)
    hub.files["model.safetensors"] = b"rotten" + hub.files["model.safetensors"][6:]
    hub.files["config.json"] = b" " + hub.files["config.json"][1:]
    hub.stored.clear()
    assert job(paths, hub, 40).trouble is None
    assert hub.files["config.json"].startswith(b"{") and not hub.files["model.safetensors"].startswith(b"rotten")


def test_a_bad_checkpoint_is_not_uploaded(paths: RunPaths, hub: FakeHub) -> None:
    file = write_checkpoint(paths, 40) / rank_file(0)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    trouble = job(paths, hub, 40).trouble
    assert trouble is not None and "SHA-256 differs" in trouble.text and not is_permanent(trouble)
    assert not hub.pushes


def test_the_token_is_nowhere(paths: RunPaths, hub: FakeHub) -> None:
    write_checkpoint(paths, 40)
    job(paths, hub, 40)
    for content in (*hub.files.values(), *(path.read_bytes() for path in paths.root.rglob("*") if path.is_file())):
        assert TOKEN.encode() not in content


def test_where_the_token_comes_from(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    assert hub_token(environ) is None
    own = tmp_path / ".cache" / "huggingface" / "token"
    own.parent.mkdir(parents=True)
    own.write_text("own\n")
    assert hub_token(environ) == "own"
    (tmp_path / "hf_token").write_text("credential\n")
    environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    assert hub_token(environ) == "credential"
    environ["HF_TOKEN"] = "environment"
    assert hub_token(environ) == "environment"


def to_place(paths: RunPaths, url: str) -> None:
    write_lock(paths.lock, uploading_config(target=url))


def test_a_directory_takes_uploads_by_the_same_way(paths: RunPaths, tmp_path: Path) -> None:
    to_place(paths, f"file://{tmp_path}/far")
    for step in (40, 60):
        checkpoint = write_checkpoint(paths, step)
        assert attempt(paths, Task(checkpoint.name, True, True)).trouble is None
    far = tmp_path / "far"
    assert sorted(path.name for path in (far / "state").iterdir()) == [checkpoint.name]
    assert (far / "state" / checkpoint.name / rank_file(0)).read_bytes() == (checkpoint / rank_file(0)).read_bytes()
    assert not list(far.rglob(f"*{far_files.BEING_WRITTEN}"))
    assert attempt(paths, Task(checkpoint.name, True, True)).size == 0
    (far / "model.safetensors").write_bytes(b"rotten")
    assert attempt(paths, Task(checkpoint.name, True, True)).size > 0


def test_an_object_store_too(paths: RunPaths) -> None:
    far = far_files.FilesFar("memory://bucket/run")
    checkpoint = write_checkpoint(paths, 40)
    to_place(paths, "memory://bucket/run")
    assert upload(paths, Task(checkpoint.name, True, True), far).size > 0
    assert upload(paths, Task(checkpoint.name, True, True), far).size == 0
    assert far.manifest() is not None and far.wrong(far.manifest().files) == []


def test_a_target_that_can_not_be_written_is_said_in_a_line(paths: RunPaths, tmp_path: Path) -> None:
    (tmp_path / "far").write_text("a file, where a directory should be")
    to_place(paths, f"file://{tmp_path}/far")
    trouble = attempt(paths, Task(write_checkpoint(paths, 40).name, True, False)).trouble
    assert trouble is not None and not is_permanent(trouble) and "\n" not in trouble.text


def test_amazons_protocol_too(paths: RunPaths, monkeypatch) -> None:
    """Against a stand-in for S3: `pip install s3fs moto[server]` beside the rest. Two processes see the same, whatever is cached."""
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in (keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        url = "s3://bucket/runs/one"
        to_place(paths, url)
        for step in (40, 60):
            checkpoint = write_checkpoint(paths, step)
            assert attempt(paths, Task(checkpoint.name, True, True)).trouble is None
            assert attempt(paths, Task(checkpoint.name, True, True)).size == 0
        there = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        assert [path.rpartition("/")[2] for path in there.ls("bucket/runs/one/state", detail=False)] == [
            checkpoint.name
        ]
        far = far_files.FilesFar(url)
        assert far.manifest() is not None and far.wrong(far.manifest().files) == []
        there.pipe_file("bucket/runs/one/model.safetensors", b"rotten")
        assert attempt(paths, Task(checkpoint.name, True, True)).size > 0
        there.rm("bucket", recursive=True)
        trouble = attempt(paths, Task(checkpoint.name, True, True)).trouble
        assert trouble is None or not is_permanent(trouble)
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
