"""Where phases begin in tokens, samples and steps."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam.contract.clock import stamp
from adam.contract.curriculum import data_digest, first_steps, phase_samples, segments
from adam.contract.schema import decode, encode
from adam.contract.shards import DataFile, TokenPhase, TokensManifest, TokenSplit

FILE = DataFile("f", 1, "0" * 64)


def manifest(count: int, firsts: list[int], sha256: str = "a" * 64) -> TokensManifest:
    train = TokenSplit(msgspec.structs.replace(FILE, sha256=sha256), FILE, "<u2", count, 3, count)
    return TokensManifest(
        shards_sha256="", tokenizer=FILE, tokenizer_origin="", vocab_size=9, end_of_text=0, token_bytes=FILE,
        splits={"train": train, "val": train}, phases=tuple(TokenPhase(f"p{n}", at) for n, at in enumerate(firsts)),
        order2_bits_per_byte=2.0, stamp=stamp(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("second", "first_sample"), [(1, 1), (15, 1), (16, 1), (17, 2), (159, 10), (160, 10), (161, 10)]
)
def test_a_sample_in_which_a_phase_begins_belongs_to_the_one_before(second: int, first_sample: int) -> None:
    tokens = manifest(162, [0, second])
    assert [(phase.first, phase.samples) for phase in phase_samples(tokens, 16)] == [
        (0, first_sample), (first_sample, 10 - first_sample)
    ]  # fmt: skip
    assert segments(tokens, 16) == ((0, first_sample) if first_sample < 10 else (0,))


@given(
    count=st.integers(17, 400),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    seq_len=st.integers(1, 16),
)
def test_every_sample_is_of_the_phase_of_its_first_token(count: int, cuts: list[int], seq_len: int) -> None:
    firsts = [0, *sorted(min(cut, count - 1) for cut in cuts)]
    phases = phase_samples(manifest(count, firsts), seq_len)
    owner = [number for number, phase in enumerate(phases) for _ in range(phase.samples)]
    whose = [sum(first <= sample * seq_len for first in firsts) - 1 for sample in range((count - 1) // seq_len)]
    assert owner == whose
    assert [phase.first for phase in phases if phase.samples] == list(segments(manifest(count, firsts), seq_len))


def test_without_phases_all_samples_are_one() -> None:
    assert phase_samples(manifest(162, []), 16) == []
    assert segments(manifest(162, []), 16) == (0,)
    assert first_steps(manifest(162, []), 16, 4) == []


def test_a_manifest_of_an_older_adam_reads_on_as_one_phase() -> None:
    old = msgspec.json.decode(encode(manifest(162, [0, 60])))
    del old["phases"]
    tokens = decode(msgspec.json.encode(old), TokensManifest, "old")
    assert segments(tokens, 16) == (0,)
    assert data_digest(tokens) == "a" * 64


@given(
    firsts=st.lists(st.integers(0, 160), max_size=4),
    batch=st.integers(1, 9),
    skip=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 20)).map(lambda r: (r[0], r[0] + r[1])), max_size=3),
)
def test_the_step_is_the_first_whose_update_has_a_sample_of_the_phase(firsts, batch: int, skip) -> None:
    tokens = manifest(162, [0, *sorted(firsts)])
    taken = [p for p in range(300) if not any(start <= p < end for start, end in skip)]
    wanted = [
        (phase.name, next(n for n, p in enumerate(taken) if p >= phase.first) // batch + 1)
        for phase in phase_samples(tokens, 2)
        if phase.samples
    ]
    assert first_steps(tokens, 2, batch, skip) == wanted


def test_other_boundaries_are_other_data() -> None:
    digests = [data_digest(manifest(162, firsts)) for firsts in ([], [0, 60], [0, 61], [0, 60, 61])] + [
        data_digest(manifest(162, [0, 60], "b" * 64))
    ]
    assert len(set(digests)) == 5
    assert digests[0] == "a" * 64


def test_a_phase_that_has_no_document_parts_nothing() -> None:
    # A run with one phase is the one that it was before manifests had phases.
    assert data_digest(manifest(162, [0])) == data_digest(manifest(162, [0, 0, 161])) == "a" * 64
    assert data_digest(manifest(162, [0, 60, 60])) == data_digest(manifest(162, [0, 60]))
