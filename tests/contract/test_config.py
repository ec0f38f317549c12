"""The configuration: every mistake is named, nothing is dropped, and what a run has begun with stays."""

import msgspec
import pytest

from adam.contract.config import Config
from adam.contract.config_file import commented_toml, load_config, parse_config, to_toml, write_lock
from adam.contract.errors import ConfigError, SchemaError
from adam.contract.lock import changed_keys, settle_config


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[trainer]\nstep = 5", ["unknown key trainer.step", "did you mean steps"]),
        ("[trainr]\nsteps = 5", ["unknown key trainr", "did you mean trainer"]),
        ("[[forge.sources]]\nkind='files'\npth='x'", ["unknown key forge.sources[0].pth", "did you mean path"]),
        ("[trainer]\nsteps = 0", ["trainer.steps = 0", ">= 1"]),
        ("[trainer]\nsteps = 'many'", ["trainer.steps = 'many'", "expected int"]),
        ("[trainer]\nlr = 0", ["trainer.lr = 0", "> 0"]),
        ("[trainer]\ndevice = 'gpu'", ["trainer.device = 'gpu'", "auto, cpu, cuda"]),
        ("[[forge.sources]]\nkind='ftp'", ["forge.sources[0].kind = 'ftp'", "files, hub, stdlib"]),
        ("[trainer]\nbatch_size = 10\nmicro_batch = 4", ["trainer.micro_batch = 4", "divide trainer.batch_size = 10"]),
        ("[trainer]\ngpus = 'most'", ["trainer.gpus = 'most'", "expected one of a whole number, all"]),
        ("[trainer]\ngpus = 0", ["trainer.gpus = 0", ">= 1"]),
        ("[trainer]\ngpus = 3", ["trainer.gpus = 3", "batch_size = 32 must be a multiple", "3 x 8"]),
        ("[trainer]\ngpus = 2\nfit = 'auto'", ["trainer.fit = 'auto'", "measures one GPU", "trainer.gpus = 2"]),
        (
            "[trainer]\ngpus = 'all'\noptimizer = 'muon'",
            ["trainer.optimizer = 'muon'", "trainer.gpus = 'all'", "use 'adamw'"],
        ),
        ("[trainer]\ngpus = 2\nprecision = 'fp8'", ["trainer.precision = 'fp8'", "is for one GPU"]),
        ("[[forge.sources]]\nkind='files'", ["forge.sources[0].path is empty"]),
        ("[forge]\nsources = []", ["forge.sources = []", "length >= 1"]),
        ("[model]\nd_conv = 9", ["model.d_conv = 9"]),
        ("steps = [", ["not valid TOML"]),
        ("trainer = 3", ["trainer = 3", "expected object"]),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "adam.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("adam.toml: ")
    for part in parts:
        assert part in message


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(SchemaError, match="schema = 99"):
        parse_config("schema = 99\nfuture = 1", "adam.toml")


def test_a_missing_or_binary_file_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no configuration at"):
        load_config(tmp_path / "adam.toml")
    (tmp_path / "adam.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(tmp_path / "adam.toml")


def test_the_commented_file_and_the_lock_read_back_as_they_were(tmp_path) -> None:
    config = parse_config("[trainer]\nlr = 0.0012345678901234567\n[[forge.sources]]\npath='a \"b\" %'\n", "x")
    assert parse_config(commented_toml(config), "x") == config
    assert parse_config(to_toml(config), "x") == config
    write_lock(tmp_path / "config.lock.toml", config)
    assert load_config(tmp_path / "config.lock.toml") == config


def test_every_field_has_help_in_the_commented_file() -> None:
    lines = commented_toml(Config()).splitlines()
    for number, line in enumerate(lines):
        if "=" in line and not line.startswith(("#", " ")):
            comment = lines[number - 1]
            assert comment.startswith("# ") and len(comment) > 8, line


def test_gpus_are_a_number_or_all() -> None:
    for value, text in ((4, "gpus = 4"), ("all", 'gpus = "all"')):
        config = parse_config(f"[trainer]\n{text}", "x")
        assert config.trainer.gpus == value
        assert f"(>= 1 or all)\n{text}\n" in commented_toml(config)
        assert parse_config(to_toml(config), "x") == config


def with_values(config: Config, **trainer) -> Config:
    return msgspec.structs.replace(config, trainer=msgspec.structs.replace(config.trainer, **trainer))


def test_decay_is_laid_out_once_and_more_steps_go_on_behind_it() -> None:
    first, _ = settle_config(with_values(Config(), steps=100), None, has_data=False, has_training=False)
    assert first.trainer.decay_steps == 100
    longer, breaks = settle_config(with_values(Config(), steps=300), first, has_data=True, has_training=True)
    assert (longer.trainer.steps, longer.trainer.decay_steps, breaks) == (300, 100, [])
    before_training, _ = settle_config(with_values(Config(), steps=300), first, has_data=True, has_training=False)
    assert before_training.trainer.decay_steps == 300


@pytest.mark.parametrize(("key", "value"), [("seed", 7), ("seq_len", 64), ("lr", 1e-3), ("decay_steps", 3)])
def test_what_a_run_has_begun_with_can_not_change(key: str, value: float) -> None:
    locked, _ = settle_config(Config(), None, has_data=False, has_training=False)
    with pytest.raises(ConfigError, match=f"trainer.{key} can't change"):
        settle_config(with_values(Config(), **{key: value}), locked, has_data=True, has_training=True)
    settled, _ = settle_config(with_values(Config(), **{key: value}), locked, has_data=True, has_training=False)
    assert getattr(settled.trainer, key) == value


def test_model_and_forge_can_not_change_either() -> None:
    locked, _ = settle_config(Config(), None, has_data=False, has_training=False)
    other = msgspec.structs.replace(Config(), model=msgspec.structs.replace(Config().model, n_layer=9))
    with pytest.raises(ConfigError, match=r"model\.n_layer can't change"):
        settle_config(other, locked, has_data=True, has_training=True)
    other = msgspec.structs.replace(Config(), forge=msgspec.structs.replace(Config().forge, vocab_size=999))
    with pytest.raises(ConfigError, match=r"forge\.vocab_size can't change"):
        settle_config(other, locked, has_data=True, has_training=False)
    settle_config(other, locked, has_data=False, has_training=False)


def test_a_change_of_numerics_is_allowed_and_reported() -> None:
    locked, _ = settle_config(Config(), None, has_data=False, has_training=False)
    _, breaks = settle_config(with_values(Config(), threads=3, micro_batch=4), locked, has_data=True, has_training=True)
    assert breaks == ["trainer.micro_batch", "trainer.threads"]
    assert changed_keys(locked, locked) == {}
