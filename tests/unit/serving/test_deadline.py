import asyncio
import sys

import pytest

from gptoss_ray.errors import DeadlineExceededError, InvalidRequestError
from gptoss_ray.serving.deadline import before_deadline, set_deadline


class Items:
    """Yields numbers, then waits for ever; knows when it was closed."""

    def __init__(self, *pauses_s):
        self.pauses_s = pauses_s
        self.is_closed = False

    async def __call__(self):
        try:
            for number, pause_s in enumerate(self.pauses_s):
                await asyncio.sleep(pause_s)
                yield number
            await asyncio.Event().wait()
        finally:
            self.is_closed = True


async def test_without_a_deadline_nothing_stands_before_the_items():
    set_deadline(None)
    items = Items()()
    assert before_deadline(items) is items


@pytest.mark.parametrize("pauses_s", [(), (0, 0)])
async def test_at_the_deadline_the_source_is_closed_whether_it_had_begun_or_not(pauses_s):
    set_deadline("0.05")
    items = Items(*pauses_s)
    seen = []
    with pytest.raises(DeadlineExceededError, match="x-request-timeout-s"):
        async for number in before_deadline(items()):
            seen.append(number)
    assert seen == list(range(len(pauses_s)))
    assert items.is_closed
    await asyncio.sleep(0)  # raises where our own cancellation was left behind
    if sys.version_info >= (3, 11):
        assert asyncio.current_task().cancelling() == 0


async def test_a_deadline_that_passes_while_the_reader_is_busy_comes_with_the_next_item():
    set_deadline("0.02")
    items = Items(0, 0)
    numbers = before_deadline(items())
    assert await anext(numbers) == 0
    await asyncio.sleep(0.05)
    with pytest.raises(DeadlineExceededError):
        await anext(numbers)
    assert items.is_closed


async def test_items_that_end_in_time_are_whole_and_no_alarm_is_left():
    async def few():
        yield 1
        yield 2

    set_deadline("0.05")
    assert [number async for number in before_deadline(few())] == [1, 2]
    await asyncio.sleep(0.1)


async def test_a_cancelled_reader_is_cancelled_and_not_told_of_a_deadline():
    async def read():
        set_deadline("60")
        async for _ in before_deadline(items()):
            pass

    items = Items()
    reading = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert items.is_closed


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "soon", "", "1,5", "0x10"])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(text):
    with pytest.raises(InvalidRequestError) as caught:
        set_deadline(text)
    assert caught.value.param == "x-request-timeout-s"
