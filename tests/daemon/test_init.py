"""`adamctl init`."""

import pytest

from adam.contract.config_file import load_config
from adam.contract.model import PRESETS
from adam.contract.states import Exit
from adam.daemon.presets import MIXES, parameters, preset


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_is_written_and_read_back(world, name: str) -> None:
    out = world.adamctl("init", "--preset", name, "--out", "new/adam.toml").stdout
    assert load_config(world.root / "new" / "adam.toml") == preset(name)
    assert f"{parameters(preset(name)):,} parameters" in out


def test_sizes_are_those_of_mamba_ssm() -> None:
    assert round(parameters(preset("130m")) / 1e6, 1) == 129.1
    assert round(parameters(preset("2.7b")) / 1e9, 3) == 2.768


def test_a_hang_of_the_demo_shows_soon() -> None:
    trainer = preset("tiny").trainer
    assert trainer.micro_batch * trainer.seq_len <= 1024


def test_texts_become_absolute_sources(world) -> None:
    world.adamctl("init", "--text", "text", "--text", world.text / "a.txt")
    sources = load_config(world.root / "adam.toml").forge.sources
    assert [source.path for source in sources] == [str(world.text), str(world.text / "a.txt")]
    assert {source.kind for source in sources} == {"files"}


def test_nothing_is_overwritten_and_texts_must_exist(world) -> None:
    (world.root / "adam.toml").write_text("mine")
    world.adamctl("init", expect=Exit.USAGE)
    assert (world.root / "adam.toml").read_text() == "mine"
    world.adamctl("init", "--out", "other.toml", "--text", "nowhere", expect=Exit.USAGE)
    assert not (world.root / "other.toml").exists()


def test_a_mix_is_written_and_read_back(world) -> None:
    world.adamctl("init", "--mix", "adam")
    assert load_config(world.root / "adam.toml").forge == MIXES["adam"]
