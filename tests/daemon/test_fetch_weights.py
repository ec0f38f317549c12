"""`adamctl fetch-weights` against a stand-in Hub: what is there arrives, once, and is what a trainer begins with."""

import json
import os
import subprocess
import sys

import pytest
import torch
from fake_hub import REPO, TOKEN, FakeHub

from adam.contract.config_file import load_config
from adam.contract.model import ModelConfig, resolved
from adam.contract.states import Exit
from adam.contract.weights import mamba_config
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.weights import begin_with

SHAPE = resolved(ModelConfig(d_model=16, n_layer=2, vocab_size=48, tie_embeddings=False), 48)


@pytest.fixture
def hub(tmp_path):
    """A repository of sharded weights."""
    torch.manual_seed(0)
    weights = MambaLM(SHAPE, ReferenceOps()).state_dict()
    names = {}
    with FakeHub() as hub:
        for number in range(2):
            part = dict(list(weights.items())[number::2])
            torch.save(part, tmp_path / "part")
            hub.files[f"pytorch_model-{number}.bin"] = (tmp_path / "part").read_bytes()
            names |= dict.fromkeys(part, f"pytorch_model-{number}.bin")
        hub.files["pytorch_model.bin.index.json"] = json.dumps({"weight_map": names}).encode()
        hub.files["config.json"] = json.dumps(mamba_config(SHAPE)).encode()
        hub.files["README.md"] = b"not wanted"
        yield hub


def fetch(hub: FakeHub, target, repo: str = REPO) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "adam.daemon", "fetch-weights", repo, str(target)]
    return subprocess.run(command, env=os.environ | hub.environment, capture_output=True, text=True, check=False)


def test_what_is_fetched_is_begun_with(hub: FakeHub, tmp_path) -> None:
    done = fetch(hub, tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == sorted(set(hub.files) - {"README.md"})
    (tmp_path / "adam.toml").write_text(done.stdout[done.stdout.index("[trainer]") :])
    config = load_config(tmp_path / "adam.toml")
    assert config.trainer.weights == str(tmp_path / "w") and resolved(config.model, 48) == SHAPE
    model = MambaLM(SHAPE, ReferenceOps())
    torch.manual_seed(0)
    right = MambaLM(SHAPE, ReferenceOps()).state_dict()
    begin_with(tmp_path / "w", model, SHAPE, lambda: None)
    assert all(torch.equal(value, right[name]) for name, value in model.state_dict().items())
    before = len([request for request in hub.requests if "/resolve/" in request[1] and request[1].endswith(".bin")])
    assert fetch(hub, tmp_path / "w").returncode == 0
    assert (
        len([request for request in hub.requests if "/resolve/" in request[1] and request[1].endswith(".bin")])
        == before
    )


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda files: files.pop("pytorch_model-1.bin"), Exit.CHECKPOINT, "has no pytorch_model-1.bin"),
        (lambda files: files.pop("config.json"), Exit.CONFIG, "has no config.json beside one of"),
        (lambda files: files.update({"config.json": b'{"model_type": "llama"}'}), Exit.CONFIG, "model_type = 'llama'"),
    ],
)
def test_what_is_no_use_is_said_in_a_line(hub: FakeHub, tmp_path, spoil, code: int, said: str) -> None:
    spoil(hub.files)
    done = fetch(hub, tmp_path / "w")
    assert done.returncode == code and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and TOKEN not in done.stderr + done.stdout


def test_a_hub_that_is_away(hub: FakeHub, tmp_path) -> None:
    hub.fault("GET", "/api/models/", 403)
    done = fetch(hub, tmp_path / "w")
    assert done.returncode == Exit.TIMEOUT and "can't be read" in done.stderr and TOKEN not in done.stderr
    assert fetch(hub, tmp_path / "w", "nonsense").returncode == Exit.USAGE
