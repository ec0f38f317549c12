"""The mix of Adam's guide at small size: local Parquet files with the real sets' columns stand in for the Hub."""

import io
import json
import random
from pathlib import Path

import msgspec
import pytest

from adam.contract.config_forge import Forge
from adam.contract.config_skeletons import Skeletons
from adam.daemon.presets import ADAM_MIX, LANGUAGES
from adam.forge.build import build_shards

pa = pytest.importorskip("pyarrow")

LOGIC = ["because", "therefore", "if", "then", "since", "thus", "hence"]
PLAIN = [
    "the",
    "river",
    "town",
    "of",
    "stone",
    "was",
    "built",
    "near",
    "a",
    "wide",
    "green",
    "valley",
    "and",
    "its",
    "people",
]


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), out, row_group_size=50)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(out.getvalue())


@pytest.fixture
def mirror(tmp_path) -> Path:
    """Orca-Math has fewer rows than its share; of Wikipedia's a third has no reasoning and a sixth is short."""
    root, rng = tmp_path / "mirror", random.Random(3)

    def text(words: list[str], count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    for part in range(2):
        stories = [
            {"text": f"Story {part} {n}: {text(PLAIN, 900)}", "prompt": "Write.", "text_token_length": 900, "seed_data": "s",
             "format": "story", "audience": "children"} for n in range(60)
        ]  # fmt: skip
        write(root / "cosmopedia-stories", f"train-{part:05d}-of-00002.parquet", stories)
    math = [
        {"question": f"What is {n} times two? {text(PLAIN, 10)}", "answer": f"It is {2 * n}. {text(PLAIN, 20)}"}
        for n in range(30)
    ]
    write(root / "orca-math", "data/train-00000-of-00001.parquet", math)
    articles = []
    for n in range(400):
        words = PLAIN if n % 3 == 0 else PLAIN + LOGIC
        body = f"{n} " + text(words, 40 if n % 6 == 1 else 200)
        articles.append({"id": str(n), "url": f"https://en.wikipedia.org/{n}", "title": f"T{n}", "text": body})
    write(root / "wikipedia", "20231101.en/train-00000-of-00041.parquet", articles)
    for language in LANGUAGES:
        code = [
            {"hexsha": str(n), "size": 1, "ext": "x", "lang": language, "max_stars_repo_path": "p", "max_stars_repo_name": "r",
             "max_stars_repo_licenses": ["mit"], "content": f"#include <{language}{n}>\n" + "x = y + 1;\n" * (10 if n % 5 == 0 else 60),
             "avg_line_length": 10.0, "max_line_length": 12, "alphanum_fraction": 0.5} for n in range(40)
        ]  # fmt: skip
        write(root / f"code-{language}", f"data/{language}/data-00000-of-00001.parquet", code)
    return root


def test_shares_are_exact_and_everything_read_is_accounted_for(bench, mirror) -> None:
    names = ["cosmopedia-stories", "orca-math", "wikipedia", *(f"code-{language}" for language in LANGUAGES)]
    sources = tuple(
        msgspec.structs.replace(source, path=str(mirror / name))
        for source, name in zip(ADAM_MIX.sources, names, strict=True)
    )
    phase = msgspec.structs.replace(ADAM_MIX.phases[0], target=500)
    forge = msgspec.structs.replace(
        ADAM_MIX,
        sources=sources,
        phases=(phase,),
        val_fraction=0.05,
        workers=1,
        skeletons=Skeletons(),
        tokenizer="train",
    )
    config = msgspec.structs.replace(bench.config, forge=forge)
    manifest = build_shards(config, bench.paths, bench.progress, lambda: False)
    written = {source.name: source.documents_written for source in manifest.sources}
    assert written == {name: round(500 * share) for name, share in phase.shares.items()} == {
        "cosmopedia-stories": 100, "orca-math": 100, "wikipedia": 150, **{f"code-{name}": 30 for name in LANGUAGES}
    }  # fmt: skip
    by_name = {source.name: source for source in manifest.sources}
    for source in manifest.sources:
        assert source.documents_read == source.documents_written + sum(source.dropped.values())
        assert set(source.dropped) == set(source.examples)
        assert source.licence
    assert (
        set(by_name["wikipedia"].dropped) == {"too_short", "little_reasoning"}
        or "too_short" in by_name["wikipedia"].dropped
    )
    assert len(by_name["wikipedia"].dropped) == 2
    assert by_name["code-rust"].dropped["too_short"] > 0
    assert all("begun again" in note for note in manifest.phases[0].notes)
    records = bench.records()
    assert len(records) == 500
    assert max(len(record["text"]) for record in records) == 4096
    code = [record for record in records if record["source"] == "code-rust"]
    assert all(record["text"].startswith("#include") for record in code)
    assert json.loads(code[0]["meta"]["licenses"]) == ["mit"]
    math = next(record for record in records if record["source"] == "orca-math")
    assert math["text"].startswith("Question: What is")
    assert [role for _, _, role in math["spans"]] == ["prompt", "answer"]


def test_it_is_the_guides() -> None:
    shares = ADAM_MIX.phases[0].shares
    code = sum(share for name, share in shares.items() if name.startswith("code-"))
    assert (shares["cosmopedia-stories"], shares["orca-math"], shares["wikipedia"], round(code, 9)) == (
        0.2,
        0.2,
        0.3,
        0.3,
    )
    assert ADAM_MIX.phases[0].target == 5_000_000
    assert (ADAM_MIX.skeletons.share, ADAM_MIX.skeletons.search_share) == (0.3, 0.2)
    assert isinstance(ADAM_MIX, Forge)
