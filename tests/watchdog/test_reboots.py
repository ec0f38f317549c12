"""The run's journal of reboots: what was asked for outlives everything, and what can't be counted is not asked for."""

from msgspec.structs import replace

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.reboots import Reboot, Reboots
from adam.watchdog.reboots import MOST, RebootJournal


def test_what_is_asked_for_is_remembered_by_the_next_watchdog(paths):
    journal = RebootJournal(paths)
    assert journal.seen() == ()
    journal.ask(120, "GPU 0 fell off the bus")
    journal.ask(130, "again")
    seen = RebootJournal(paths).seen()
    assert seen is not None and [(item.step, item.this_boot) for item in seen] == [(120, True), (130, True)]
    assert all(0.0 <= item.age_s < 60 for item in seen)


def test_of_another_boot_the_wall_clock_tells_the_age(paths):
    there = replace(stamp(), boot_id="another", boottime=5.0)
    schema.save(paths.reboots, Reboots(asked=(Reboot(replace(there, wall=there.wall - 5000), 10, ""),)))
    (item,) = RebootJournal(paths).seen()
    assert not item.this_boot and 5000 <= item.age_s < 5060


def test_what_cannot_be_read_or_written_is_not_asked_for(paths):
    journal = RebootJournal(paths)
    paths.reboots.write_text("{")
    assert journal.seen() is None
    journal.ask(1, "")
    assert paths.reboots.read_text() == "{"
    paths.reboots.unlink()
    paths.run.rename(paths.run.with_name("elsewhere"))
    journal.ask(1, "")
    assert "reboots.json can't be written" in journal.trouble and not paths.reboots.exists()


def test_it_does_not_grow_for_ever(paths):
    journal = RebootJournal(paths)
    for step in range(MOST + 5):
        journal.ask(step, "")
    assert [item.step for item in journal.seen()] == list(range(5, MOST + 5))
