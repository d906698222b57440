"""A silo's agent that lies in its uploads: it fills no memory, and harms no sum."""

from __future__ import annotations

import pytest

from blindsum.actors.cluster import Answered, Raised
from blindsum.actors.codec import decoded
from blindsum.actors.separate import mailbox as mailbox_module
from blindsum.actors.separate.mailbox import Mailbox
from blindsum.actors.separate.messages import (
    Failure,
)
from blindsum.platform.errors import SiloRefused
from tests.actors.separate.liars import (
    Adding,
    Liar,
    Refused,
    answered,
    attached,
    of,
    post,
    send_frame,
)
from tests.actors.separate.organisations import Coordinator
from tests.conftest import MakeJob

MB = 2**20


def test_a_frame_is_added_once(alder: Liar, box: Mailbox) -> None:
    adding = Adding()
    outcome = post(box, "train", add=adding)
    for _ in range(3):
        assert send_frame(alder, b"frame") == b""
    again = answered(1, b"report", frames=attached(b"frame", b"other", aggregator=1))
    alder.poll([b"report", b"frame", b"other"], answers=(again,))
    assert adding.got == [(0, b"frame"), (1, b"other")]
    assert outcome.result(0) == Answered(b"report")


def test_frames_are_taken_by_calls_that_send(alder: Liar, box: Mailbox) -> None:
    post(box, "inspect")
    with pytest.raises(Refused, match="400 instruction 1 takes no frames"):
        send_frame(alder, b"frame")
    with pytest.raises(Refused, match="400 instruction 1 takes no frames"):
        alder.poll([b"frame"], answers=(answered(1, frames=attached(b"frame")),))
    for path in ("/v1/calls/1/frames/x/a", "/v1/calls/1/frames/-1/a", "/v1/calls/1/frames/a"):
        with pytest.raises(Refused, match="404"):
            alder.ask("POST", path, b"frame")


def test_a_frame_for_an_aggregator_that_is_none_fails_the_silo_alone(
    coordinator: Coordinator, alder: Liar, box: Mailbox, make_job: MakeJob
) -> None:
    job = of(make_job().job, "alder", "birch")
    cluster = coordinator.cluster(coordinator.propose(job), job)
    try:
        cluster.start_aggregators(1, keep=False)
        outcome = post(box, "train", add=cluster._adding("alder"))
        for aggregator in (1, 63, 10**11):
            said = decoded(send_frame(alder, b"%d" % aggregator, aggregator=aggregator), Failure)
            assert (said.kind, said.silo) == ("SiloRefused", "alder")
        alder.poll([b"report"], answers=(answered(1, b"report"),))
        raised = outcome.result(20)
        assert isinstance(raised, Raised) and isinstance(raised.error, SiloRefused)
    finally:
        cluster.close()


def test_frames_that_the_aggregators_have_not_taken_up_are_bounded(
    alder: Liar, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_module, "_MOST_FLYING", 8 * MB)
    monkeypatch.setattr(mailbox_module, "_MOST_FRAMES", 20)
    adding = Adding()
    adding.stuck = True
    post(box, "train", add=adding)
    for number in range(8):
        box.receive_frame(1, 0, bytes([number]) * MB)
    with pytest.raises(Refused, match="400 instruction 1 takes no more frames now"):
        send_frame(alder, b"x" * MB)
    adding.stuck = False
    post(box, "train", add=adding)
    for number in range(20):
        send_frame(alder, bytes([number]) * MB, number=2)
    with pytest.raises(Refused, match="400 instruction 2 takes no more frames now"):
        send_frame(alder, b"x", number=2)
    assert len(adding.got) == 28
