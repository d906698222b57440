"""Structured log lines are complete, carry bound fields, and contain only public fields."""

import io
import json
from contextlib import suppress

from blindsum.platform import events
from blindsum.platform.events import Log


def test_a_line_has_its_fields_and_only_public_ones() -> None:
    stream = io.StringIO()
    log = Log(job="trial", run="run-1", silo="alder")
    log.say("before anything is said to anywhere")
    log.to(stream)
    log.say("charged", round=2, attempt=1, epsilon=0.5, record=[1.5], secret=b"key", smiles="CCO")
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "charged",
        "job": "trial",
        "run": "run-1",
        "silo": "alder",
        "round": 2,
        "attempt": 1,
        "epsilon": 0.5,
        "level": "info",
    }


def test_a_log_that_cannot_be_written_does_not_stop_the_run() -> None:
    log, closed = Log(run="run-1"), io.StringIO()
    closed.close()
    log.to(closed)
    log.say("round", round=1)
    full = open("/dev/full", "w")  # noqa: SIM115 - its content cannot be written when it is closed either
    log.to(full)
    log.say("round", round=1)
    with suppress(OSError):
        full.close()
    stream = io.StringIO()
    log.to(stream)
    log.say("round", round=2)
    assert json.loads(stream.getvalue())["round"] == 2


def test_a_process_writes_all_events_to_the_given_stream() -> None:
    stream = io.StringIO()
    events.start(stream)
    try:
        Log(silo="alder").say("joined")
        Log(silo="birch").say("joined")
    finally:
        events.stop()
    Log(silo="cedar").say("joined")
    assert [json.loads(line)["silo"] for line in stream.getvalue().splitlines()] == [
        "alder",
        "birch",
    ]
