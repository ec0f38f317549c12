"""The model card's account of the data: what was taken, what was dropped for which reason, and what went otherwise than planned."""

from adam.contract.clock import stamp
from adam.contract.shards import PhaseSummary, ShardManifest, SourceSummary
from adam.watchdog.upload_card import ledger


def test_sets_drops_mixes_and_what_went_wrong_are_in_the_card() -> None:
    source = SourceSummary(
        "math", "hub", "someone/math", "c" * 40, "mit", 3, 12, 10, 900, {"duplicate": 1, "bad_line": 1}, {},
        given_up="someone/math has lost a file", notes=("old/math was taken down: math is taken in its place",),
    )  # fmt: skip
    phase = PhaseSummary(
        "adam", "documents", 10, "repeat", {"math": 1}, {"math": 10}, {}, "target", ("math begun again at 7 documents",)
    )
    manifest = ShardManifest(
        config_digest="", sources=(source,), skipped=(), files=(), val_fraction=0.1, stamp=stamp(), phases=(phase,)
    )
    lines = ledger(manifest)
    assert lines[2] == f"| math (someone/math) | hub | {'c' * 16} | mit | 10 | 900 | bad_line 1, duplicate 1 |"
    assert lines[4:] == [
        "- math: old/math was taken down: math is taken in its place",
        "- math was given up: someone/math has lost a file",
        "- mix adam, documents: math 10; math begun again at 7 documents",
    ]
