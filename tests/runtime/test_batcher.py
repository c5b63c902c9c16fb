"""Batches without a clock: what waits goes now, nobody is lost, nobody is answered with a neighbour's result."""

import asyncio
import threading
import time

import pytest

from medserve.errors import Busy, Fault, Refusal
from medserve.runtime.batcher import BATCH, Batcher, Late, Spent


def soon() -> float:
    return time.monotonic() + 10


class Gate:
    """A run function that waits until it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.open.wait(10)
        return [item * 10 for item in items]


async def until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.002)
    pytest.fail("waited in vain")


@pytest.fixture
def made():
    """Makes batchers and closes them."""
    batchers: list[Batcher] = []

    def make(run, **more) -> Batcher:
        batchers.append(Batcher(run, **more))
        return batchers[-1]

    yield make
    for batcher in batchers:
        batcher.close()


def test_every_item_gets_its_own_result(made):
    """Five hundred at once, on three threads: each answer belongs to its question."""
    batcher = made(lambda items: [item * item for item in items], max_batch=7, threads=3)

    async def ask():
        return await asyncio.gather(*(batcher.submit(i, deadline=soon()) for i in range(500)))

    assert asyncio.run(ask()) == [i * i for i in range(500)]


def test_the_next_batch_grows_while_one_runs(made):
    """A lone item starts at once; what comes meanwhile leaves together, in order."""
    gate = Gate()
    batcher = made(gate, max_batch=4)

    async def ask():
        first = asyncio.create_task(batcher.submit(0, deadline=soon()))
        await until(gate.entered.is_set)
        rest = [asyncio.create_task(batcher.submit(i, deadline=soon())) for i in range(1, 7)]
        await asyncio.sleep(0.02)
        gate.open.set()
        return await asyncio.gather(first, *rest)

    assert asyncio.run(ask()) == [0, 10, 20, 30, 40, 50, 60]
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_only_items_of_one_bucket_share_a_batch(made):
    """The one that is due first goes, with those like it; the others follow, none is passed over for long."""
    gate = Gate()
    batcher = made(gate, max_batch=3, bucket=lambda item: item % 2)

    async def ask():
        first = asyncio.create_task(batcher.submit(0, deadline=soon()))
        await until(gate.entered.is_set)
        rest = [asyncio.create_task(batcher.submit(i, deadline=soon())) for i in (1, 2, 3, 4, 5, 6, 7)]
        await until(lambda: batcher.waiting == 7)
        gate.open.set()
        return await asyncio.gather(first, *rest)

    assert asyncio.run(ask()) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert gate.batches == [[0], [1, 3, 5], [2, 4, 6], [7]]


def test_what_is_promised_counts_each_bucket_at_its_own_cost(made):
    """Ten short items behind one another are soon done; ten long ones are not."""
    gate = threading.Event()

    def run(items):
        if items[0] == 0:
            assert gate.wait(10)
        time.sleep(0.05 if items[0] == 9 else 0.0)
        return items

    batcher = made(run, max_batch=1, bucket=lambda item: int(item == 9))

    async def ask():
        await asyncio.gather(*(batcher.submit(i, deadline=soon()) for i in (1, 9, 1, 9)))
        held = asyncio.create_task(batcher.submit(0, deadline=soon()))
        await until(lambda: batcher.promised_s < 0.04 and batcher.waiting == 0)
        promised = []
        tasks = []
        for count, item in ((10, 1), (20, 9)):
            tasks += [asyncio.create_task(batcher.submit(item, deadline=soon())) for _ in range(10)]
            await until(lambda count=count: batcher.waiting == count)
            promised.append(batcher.promised_s)
        gate.set()
        await asyncio.gather(held, *tasks)
        return promised

    short, both = asyncio.run(ask())
    assert short < 0.1 and both - short > 0.4


def test_one_bad_item_does_not_fail_its_neighbours(made):
    """A failing batch is tried item by item; only the bad one hears of it."""

    def run(items):
        if 3 in items:
            raise Refusal("bad-item", "no") if len(items) == 1 else RuntimeError("boom")
        return items

    gate = Gate()
    batcher = made(lambda items: gate(items) and run(items), max_batch=8)

    async def ask():
        first = asyncio.create_task(batcher.submit(0, deadline=soon()))
        await until(gate.entered.is_set)
        rest = [asyncio.create_task(batcher.submit(i, deadline=soon())) for i in range(1, 6)]
        await asyncio.sleep(0.02)
        gate.open.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    answers = asyncio.run(ask())
    assert [a for a in answers if not isinstance(a, Exception)] == [0, 1, 2, 4, 5]
    assert isinstance(answers[3], Refusal) and answers[3].code == "bad-item"


def test_an_unknown_error_of_the_engine_becomes_a_fault_without_its_text(made):
    """What an engine raises may quote its input; only the type is told."""

    def run(items):
        raise ValueError("pixel 4711")

    batcher = made(run)
    with pytest.raises(Fault, match="ValueError") as caught:
        asyncio.run(batcher.submit(1, deadline=soon()))
    assert "4711" not in str(caught.value)
    assert batcher.alive


def test_a_result_too_few_is_an_error_for_all_and_the_thread_lives_on(made):
    """The engine's answer must fit its question."""
    answers = iter([[], [5]])
    batcher = made(lambda items: next(answers))
    with pytest.raises(Fault):
        asyncio.run(batcher.submit(1, deadline=soon()))
    assert asyncio.run(batcher.submit(1, deadline=soon())) == 5


def test_work_of_a_client_that_left_is_never_done(made):
    """Cancelled work is dropped when it is taken."""
    gate = Gate()
    batcher = made(gate, max_batch=1)

    async def ask():
        first = asyncio.create_task(batcher.submit(0, deadline=soon()))
        await until(gate.entered.is_set)
        left, stayed = (asyncio.create_task(batcher.submit(i, deadline=soon())) for i in (1, 2))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        return await asyncio.gather(first, stayed)

    assert asyncio.run(ask()) == [0, 20]
    assert gate.batches == [[0], [2]]


def test_work_whose_deadline_passed_is_told_so_and_never_done(made):
    """504, before it costs anything."""
    gate = Gate()
    batcher = made(gate, max_batch=1)

    async def ask():
        first = asyncio.create_task(batcher.submit(0, deadline=soon()))
        await until(gate.entered.is_set)
        late = asyncio.create_task(batcher.submit(1, deadline=time.monotonic() + 0.01))
        await asyncio.sleep(0.05)
        gate.open.set()
        return await asyncio.gather(first, late, return_exceptions=True)

    done, late = asyncio.run(ask())
    assert done == 0
    assert isinstance(late, Late) and late.status == 504
    assert gate.batches == [[0]]


def test_a_full_service_says_so_at_once_with_the_time_to_come_back(made):
    """Work is admitted in promised seconds; a lone item is never refused, whatever it costs."""
    gate = Gate()
    batcher = made(gate, max_batch=1, item_s=3.0, horizon_s=5.0)

    async def ask():
        running = [asyncio.create_task(batcher.submit(0, deadline=soon()))]
        await until(gate.entered.is_set)
        running.append(asyncio.create_task(batcher.submit(1, deadline=soon())))
        await asyncio.sleep(0.01)
        with pytest.raises(Busy) as caught:
            await batcher.submit(2, deadline=soon())
        assert (caught.value.code, caught.value.status) == ("service-full", 503)
        assert 3.0 <= caught.value.retry_after_s <= 4.5
        with pytest.raises(Late):
            await made(gate, item_s=3.0).submit(3, deadline=time.monotonic() - 1)
        gate.open.set()
        return await asyncio.gather(*running)

    assert asyncio.run(ask()) == [0, 10]


def test_the_queue_is_bounded_by_count_too(made):
    """However cheap the items seem, memory is finite."""
    gate = Gate()
    batcher = made(gate, max_batch=1, max_waiting=3)

    async def ask():
        tasks = [asyncio.create_task(batcher.submit(0, deadline=soon()))]
        await until(gate.entered.is_set)
        tasks += [asyncio.create_task(batcher.submit(i, deadline=soon())) for i in range(1, 10)]
        await asyncio.sleep(0.01)
        gate.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(ask())
    assert answers[:4] == [0, 10, 20, 30]
    assert all(isinstance(a, Busy) for a in answers[4:])


def test_closing_finishes_what_was_accepted():
    """A drain answers all, then refuses."""
    gate = Gate()
    batcher = Batcher(gate, max_batch=2)

    async def ask():
        tasks = [asyncio.create_task(batcher.submit(i, deadline=soon())) for i in range(5)]
        await until(gate.entered.is_set)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.02)
        gate.open.set()
        answers = await asyncio.gather(*tasks)
        await closing
        with pytest.raises(Busy, match="shutting down"):
            await batcher.submit(9, deadline=soon())
        return answers

    assert asyncio.run(ask()) == [0, 10, 20, 30, 40]
    assert not batcher.alive


def test_the_urgent_go_first_and_nothing_starves(made, monkeypatch):
    """stat before routine before batch; what waited long enough goes before what is more urgent and new."""
    gate = Gate()
    batcher = made(gate, max_batch=1)

    async def ask():
        first = asyncio.ensure_future(batcher.submit(0, deadline=soon()))
        await until(gate.entered.is_set)
        late = [
            asyncio.ensure_future(batcher.submit(i, deadline=soon(), priority=p)) for i, p in ((1, 2), (2, 1), (3, 0))
        ]
        await until(lambda: batcher.waiting == 3)
        batcher._waiting[2][0][0].came -= 11  # it has waited for long
        late += [asyncio.ensure_future(batcher.submit(4, deadline=soon(), priority=2))]
        await until(lambda: batcher.waiting == 4)
        gate.open.set()
        return await asyncio.gather(first, *late)

    assert asyncio.run(ask()) == [0, 10, 20, 30, 40]
    assert gate.batches == [[0], [1], [3], [2], [4]]


def test_promised_work_counts_what_is_ahead(made):
    """A queue full of batch work refuses more of it, and still takes an urgent case."""
    gate = Gate()
    batcher = made(gate, max_batch=1, item_s=1.0, horizon_s=3.0)

    async def ask():
        first = asyncio.ensure_future(batcher.submit(0, deadline=soon()))
        await until(gate.entered.is_set)
        waits = [asyncio.ensure_future(batcher.submit(i, deadline=soon(), priority=2)) for i in (1, 2, 3)]
        await until(lambda: batcher.waiting == 3)
        with pytest.raises(Busy) as told:
            await batcher.submit(4, deadline=soon(), priority=2)
        assert told.value.code == "service-full" and told.value.retry_after_s >= 1
        spent = Spent()
        urgent = asyncio.ensure_future(batcher.submit(5, deadline=soon(), priority=0, spent=spent))
        await until(lambda: batcher.waiting == 4)
        gate.open.set()
        assert await urgent == 50 and spent.size == 1 and spent.queue > 0
        await asyncio.gather(first, *waits)

    asyncio.run(ask())


def test_a_light_pass_runs_on_the_event_loop_with_all_that_one_turn_brought(made):
    """Thirty-two that come in one turn of the loop share one pass, on its own thread; a stat goes before a batch."""
    passes: list[tuple[str, list[int]]] = []

    def run(items: list[int]) -> list[int]:
        passes.append((threading.current_thread().name, list(items)))
        return [item + 1 for item in items]

    batcher = made(run, max_batch=20, item_s=1e-5, inline_s=0.5)

    async def ask():
        late = asyncio.create_task(batcher.submit(99, deadline=soon(), priority=BATCH))
        await asyncio.sleep(0)
        rest = [asyncio.create_task(batcher.submit(i, deadline=soon())) for i in range(32)]
        gone = rest.pop()
        asyncio.get_running_loop().call_soon(gone.cancel)
        return await late, await asyncio.gather(*rest)

    assert asyncio.run(ask()) == (100, list(range(1, 32)))
    assert {name for name, _ in passes} == {threading.current_thread().name}
    assert sum(len(items) for _, items in passes) == 32
    assert max(len(items) for _, items in passes) == 20


def test_an_event_loop_that_ended_holds_up_no_other(made):
    """A loop that stops before the end of its turn leaves its work to the next one that comes."""
    batcher = made(lambda items: items, item_s=1e-5, inline_s=0.5)

    async def leave():
        asked = asyncio.create_task(batcher.submit(1, deadline=soon()))
        await asyncio.sleep(0)
        asked.cancel()
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    loop.create_task(leave())
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    answer = asyncio.run(asyncio.wait_for(batcher.submit(2, deadline=soon()), 5))
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()
    assert answer == 2


def test_passes_that_get_long_leave_the_event_loop(made):
    """One pass that stalls the loop is the last one there; those after it run on a thread, and all are answered."""
    names: list[str] = []

    def run(items: list[int]) -> list[int]:
        names.append(threading.current_thread().name)
        time.sleep(0.02)
        return items

    batcher = made(run, item_s=1e-5, inline_s=0.001, name="apart")

    async def ask():
        return [await batcher.submit(i, deadline=soon()) for i in range(3)]

    assert asyncio.run(ask()) == [0, 1, 2]
    assert names == [threading.current_thread().name, "apart-0", "apart-0"]


def test_a_light_pass_that_fails_is_tried_item_by_item_and_the_late_hear_of_it(made):
    """On the event loop, too: only the bad one fails, and what came too late is not computed."""

    def run(items: list[int]) -> list[int]:
        if 3 in items:
            raise ValueError
        return items

    batcher = made(run, item_s=1e-9, inline_s=0.5)

    async def ask():
        asked = [asyncio.create_task(batcher.submit(i, deadline=soon())) for i in range(5)]
        late = asyncio.create_task(batcher.submit(9, deadline=time.monotonic() + 1e-3))
        asyncio.get_running_loop().call_soon(time.sleep, 0.01)
        return await asyncio.gather(*asked, late, return_exceptions=True)

    answers = asyncio.run(ask())
    assert [a for a in answers if not isinstance(a, Exception)] == [0, 1, 2, 4]
    assert isinstance(answers[3], Fault) and isinstance(answers[5], Late)
