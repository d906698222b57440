"""The channel between a silo and its agent."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from blindsum.actors.separate.relay import IN_FLIGHT, RelayChannel
from blindsum.platform.errors import AggregatorLost, BlindsumError


def frame(text: bytes) -> pa.Buffer:
    return pa.py_buffer(text)


@pytest.fixture(autouse=True)
def _nothing_returns_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindsum.actors.separate.relay.INLINE", 0)


def test_the_first_frames_return_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindsum.actors.separate.relay.INLINE", 5)
    channel = RelayChannel()
    with ThreadPoolExecutor(1) as threads:
        channel.send(0, frame(b"aa"))
        channel.send(1, frame(b"bbb"))
        channel.settle()  # nothing has to arrive before
        channel.send(1, frame(b"c"))
        settling = threads.submit(channel.settle)
        assert channel.take(0, 0, 0) == (1, frame(b"c"))
        threads2 = ThreadPoolExecutor(1)
        threads2.submit(channel.take, 0, 1, 1)
        settling.result(5)
        assert channel.end_turn() == [(0, frame(b"aa")), (1, frame(b"bbb"))]
        threads2.shutdown()
    assert channel.end_turn() == []


def test_an_arrival_is_reported_while_the_agent_waits_for_the_next_frame() -> None:
    """The agent asks for one more frame than there is, and then the last one arrives."""
    channel = RelayChannel()
    with ThreadPoolExecutor(3) as threads:
        channel.send(0, frame(b"a"))
        assert channel.take(0, 0, 0) == (0, frame(b"a"))
        settling = threads.submit(channel.settle)
        asking = threads.submit(channel.take, 0, 1, 0)
        started = time.monotonic()
        again = threads.submit(channel.take, 0, 1, 1)
        settling.result(5)
        assert time.monotonic() - started < 2  # a take by itself waits for 5 s
        channel.end_turn()
        assert asking.result(5) is None and again.result(5) is None


def test_reports_that_overtake_each_other_take_nothing_back() -> None:
    channel = RelayChannel()
    for text in (b"a", b"b"):
        channel.send(1, frame(text))
    assert channel.take(0, 1, 1) == (1, frame(b"b"))
    assert channel.take(0, 1, 0) == (1, frame(b"b"))
    for _ in range(IN_FLIGHT - 1):
        channel.send(1, frame(b"c"))  # the first one still counts as arrived
    channel.end_turn()


def test_a_silo_waits_while_too_many_frames_are_on_their_way_and_hears_of_a_failure() -> None:
    channel = RelayChannel()
    raised: list[BlindsumError] = []

    def send() -> None:
        try:
            for _ in range(IN_FLIGHT + 1):
                channel.send(0, frame(b"a"))
        except BlindsumError as error:
            raised.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    assert channel.take(0, IN_FLIGHT - 1, 0) is not None
    channel.take(0, 0, 0, AggregatorLost("it died"))
    sender.join(5)
    with pytest.raises(AggregatorLost, match="it died"):
        channel.settle()
    assert [type(error) for error in raised] == [AggregatorLost]
