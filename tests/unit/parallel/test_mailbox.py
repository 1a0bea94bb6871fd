from __future__ import annotations

import ctypes
import random

import pytest

from gptoss_ray.parallel.mailbox import Mailbox


def address_of(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


@pytest.mark.parametrize("capacity", [1, 5, 64])
def test_bytes_come_out_as_they_went_in_however_the_two_ends_take_turns(capacity):
    chooser = random.Random(capacity)
    counters, ring = bytearray(16), bytearray(capacity)
    mailbox = Mailbox(memoryview(counters).cast("q"), 0, 1, address_of(ring), capacity)
    sent = bytearray(chooser.randbytes(1000))
    received = bytearray(len(sent))
    num_pushed = num_pulled = 0
    while num_pulled < len(sent):
        if chooser.random() < 0.5:
            wanted = min(chooser.randrange(40), len(sent) - num_pushed)
            num_pushed += mailbox.push(address_of(sent) + num_pushed, wanted)
        else:
            wanted = min(chooser.randrange(40), len(sent) - num_pulled)
            num_pulled += mailbox.pull(address_of(received) + num_pulled, wanted)
        assert num_pulled <= num_pushed <= num_pulled + capacity
    assert received == sent


def test_a_full_ring_takes_nothing_and_an_empty_one_gives_nothing():
    counters, ring, rows = bytearray(16), bytearray(8), bytearray(b"abcdefgh")
    mailbox = Mailbox(memoryview(counters).cast("q"), 0, 1, address_of(ring), 8)
    assert mailbox.pull(address_of(rows), 8) == 0
    assert [mailbox.push(address_of(rows), 8) for _ in range(5)] == [2, 2, 2, 2, 0]


def test_the_reader_takes_a_piece_while_the_writer_still_adds_others():
    counters, ring, rows = bytearray(16), bytearray(8), bytearray(b"abcdefgh")
    mailbox = Mailbox(memoryview(counters).cast("q"), 0, 1, address_of(ring), 8)
    assert 0 < mailbox.push(address_of(rows), 8) < 8
    assert mailbox.pull(address_of(rows), 8) > 0
