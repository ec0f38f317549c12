"""Imports point one way: everybody may import the contract, siblings never import each other."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("contract", "daemon", "forge", "trainer", "watchdog")
TORCH_ONLY_IN = "trainer"


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_siblings_never_import_each_other(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        for name in imports_of(path):
            if name.startswith("adam."):
                assert name.split(".")[1] in {"contract", part}, f"{path} imports {name}"


@pytest.mark.parametrize("part", [part for part in PARTS if part != TORCH_ONLY_IN])
def test_only_the_trainer_imports_torch(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in imports_of(path)}, path


def test_every_package_is_listed_for_installation() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        "adam." + ".".join(path.parent.relative_to(ROOT).parts)
        for part in PARTS
        for path in (ROOT / part).rglob("__init__.py")
    }
    assert listed == there


def test_there_is_nothing_that_would_shadow_other_packages() -> None:
    assert not (ROOT / "adam" / "__init__.py").exists()
    assert not (ROOT / "conftest.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
