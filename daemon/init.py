"""`adamctl init`: write a commented configuration."""

import argparse
from pathlib import Path

import msgspec

from adam.contract.config_file import commented_toml, parse_config
from adam.contract.durable import replace_file
from adam.contract.errors import UsageError
from adam.daemon.presets import MIXES, files_sources, parameters, preset


def run(arguments: argparse.Namespace) -> int:
    """Write the preset's configuration. Refuses to overwrite; checks that what it writes reads back as it was meant."""
    out = Path(arguments.out)
    if out.exists():
        raise UsageError(f"{out} is there already", "name another file with --out, or edit this one")
    config = preset(arguments.preset)
    if arguments.mix:
        config = msgspec.structs.replace(config, forge=MIXES[arguments.mix])
    elif arguments.text:
        sources = files_sources([existing(text) for text in arguments.text])
        config = msgspec.structs.replace(config, forge=msgspec.structs.replace(config.forge, sources=sources))
    text = commented_toml(config)
    if parse_config(text, str(out)) != config:
        raise RuntimeError(f"the configuration of preset {arguments.preset} does not read back as it was written")
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, text.encode())
    print(f"{out}: preset {arguments.preset}, {config.model.arch}, {parameters(config):,} parameters")
    print(f"start it with `adamctl up --config {out}`")
    return 0


def existing(text: str) -> str:
    """The absolute path of a text that is there: relative ones in a configuration are seen from the run directory."""
    path = Path(text).absolute()
    if not path.exists():
        raise UsageError(f"no such text: {path}", "name a file or folder with --text")
    return str(path)
