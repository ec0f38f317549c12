"""Events from the GPUs' readings: what is new is told, what goes on and on is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam.contract.records import Gpu
from adam.watchdog.gpu_news import AGAIN_S, Told, news_of, ration
from adam.watchdog.probe_words import Reading, Xid

QUIET = Reading("ok", (Gpu(0, clocks=("sw_power_cap",), uncorrected=2), Gpu(1)))


def reading(**fields) -> Reading:
    return Reading("ok", (Gpu(0, **{"clocks": (), "uncorrected": 2} | fields), Gpu(1)))


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (reading(uncorrected=5), "GPU 0: 3 memory errors that could not be corrected (ECC), 5 in all"),
        (reading(clocks=("hw_slowdown", "hw_power_brake")), "GPU 0: clocks are held down (hw_power_brake hw_slowdown)"),
        (Reading("ok", QUIET.gpus, xids=(Xid(1, 48),)), "GPU 1: the driver reports Xid 48"),
        (Reading("ok", QUIET.gpus, xids=(Xid(-1, 48),)), "a GPU: the driver reports Xid 48"),
        (Reading("ok", (Gpu(0),), lost=(1,)), "GPU 1 does not answer any more"),
        (Reading("unknown", fault="lost"), "no GPU answers any more"),
        (Reading("unknown", fault="mismatch"), "the driver was changed under the run"),
        (Reading("unknown", fault="reset"), "no GPU can be used before it is reset"),
        (Reading("ok", (Gpu(0),)), "NVML sees 1 GPUs, and saw 2 before"),
        (Reading("ok"), "NVML sees 0 GPUs, and saw 2 before"),
        (reading(recovery="reboot"), "GPU 0: the driver wants this done: reboot"),
        (Reading("ok", QUIET.gpus, xids=(Xid(0, 79),)), "GPU 0: the driver reports Xid 79 (it has fallen off the bus)"),
    ],
)
def test_what_is_new_is_told(now, words):
    (news,) = news_of(QUIET, now)
    assert news.text.startswith(words)
    assert not list(news_of(now, Reading(now.sensors, now.gpus, lost=now.lost, fault=now.fault)))


@pytest.mark.parametrize(
    "now", [QUIET, reading(), reading(clocks=("idle",)), reading(uncorrected=None), Reading("unknown")]
)
def test_what_is_as_ever_is_not(now):
    assert not list(news_of(QUIET, now))


def test_clocks_that_are_free_again():
    (news,) = news_of(reading(clocks=("hw_slowdown",)), QUIET)
    assert news.text == "GPU 0: clocks are free again"


def test_a_flood_is_one_event_and_a_number():
    told: dict[str, Told] = {}
    out = []
    for second in range(int(AGAIN_S) + 2):
        told, some = ration(told, news_of(QUIET, Reading("ok", QUIET.gpus, xids=(Xid(0, 31),) * 3)), float(second))
        out += some
    assert len(out) == 2 and out[1].text.endswith(f"({3 * int(AGAIN_S) - 1} more like it since the last one told)")


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 1000)), max_size=60))
def test_each_kind_at_most_once_in_its_time(events):
    told: dict[str, Told] = {}
    now, last = 0.0, {}
    for code, seconds in events:
        now += seconds
        told, out = ration(told, news_of(QUIET, Reading("ok", QUIET.gpus, xids=(Xid(0, code),))), now)
        for item in out:
            assert now - last.get(item.key, -AGAIN_S) >= AGAIN_S
            last[item.key] = now
        assert out or f"xid 0 {code}" in last
