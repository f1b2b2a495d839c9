"""The order of jobs: near to what is loaded first, nobody passed over for longer than the bound."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.core.drawing import Loaded
from maquette.serving.queue import JobQueue, Waiting, pick

BASES = ("", "red", "blue")
LORAS = ("a", "b", "c")
BOUND = 10.0

loras = st.lists(st.sampled_from(LORAS), unique=True).map(tuple)
loadeds = st.builds(Loaded, base=st.sampled_from(BASES), loras=loras)
jobs = st.builds(
    lambda number, base, loras, since: Waiting(number=number, base=base, loras=loras, since=since),
    st.integers(0, 10_000),
    st.sampled_from(BASES[1:]),
    loras,
    st.integers(0, 40).map(float),
)
queues = st.lists(jobs, max_size=8, unique_by=lambda job: job.number)
workers = st.dictionaries(st.integers(0, 3), loadeds, max_size=3)


def job(number: int, base: str = "red", *loras: str, since: float = 0.0) -> Waiting:
    return Waiting(number=number, base=base, loras=loras, since=since)


def test_base_comes_before_loras_and_loras_before_age() -> None:
    free = {0: Loaded(base="red", loras=("a", "b"))}
    other_base, unloaded, half, whole = (
        job(1, "blue", "a", "b"),
        job(2, "red", "c", "d"),
        job(3, "red", "a", "c"),
        job(4, "red", "a", "b"),
    )
    waiting = [other_base, unloaded, half, whole]
    order: list[Waiting] = []
    while chosen := pick(waiting, free, now=1.0, longest_wait=BOUND):
        order.append(chosen[0])
        waiting.remove(chosen[0])
    assert order == [whole, half, unloaded, other_base]


def test_job_goes_to_the_worker_that_has_most_of_it_and_to_a_fresh_one_before_another_base() -> None:
    free = {
        0: Loaded(base="blue", loras=()),
        1: Loaded(base="", loras=()),
        2: Loaded(base="red", loras=()),
        3: Loaded(base="red", loras=("a",)),
    }
    for expected in (3, 2, 1, 0):
        chosen = pick([job(1, "red", "a")], free, now=1.0, longest_wait=BOUND)
        assert chosen is not None
        assert chosen[1] == expected
        del free[expected]
    assert pick([job(1)], free, now=1.0, longest_wait=BOUND) is None


@given(queues, workers, st.integers(40, 60).map(float))
def test_the_overdue_oldest_is_begun_and_else_one_that_no_other_is_nearer_than(
    waiting: list[Waiting], free: dict[int, Loaded], now: float
) -> None:
    chosen = pick(waiting, free, now=now, longest_wait=BOUND)
    if not waiting or not free:
        assert chosen is None
        return
    assert chosen is not None
    begun, worker = chosen
    assert begun in waiting
    oldest = min(waiting, key=lambda one: (one.since, one.number))
    if now - oldest.since > BOUND:
        assert begun == oldest
        return
    bases = {loaded.base for loaded in free.values()}
    if any(one.base in bases for one in waiting):
        assert begun.base == free[worker].base
    older = [one for one in waiting if (one.since, one.number) < (begun.since, begun.number)]
    assert not [one for one in older if (one.base, set(one.loras)) == (begun.base, set(begun.loras))]


@settings(max_examples=50)
@given(
    popular=st.integers(1, 6),
    arrivals=st.lists(st.integers(1, 4), min_size=40, max_size=40),
    durations=st.lists(st.integers(1, 5), min_size=1, max_size=10),
    lonely_at=st.integers(0, 30),
)
def test_a_lonely_job_is_never_starved_by_a_stream_of_popular_ones(
    popular: int, arrivals: list[int], durations: list[int], lonely_at: int
) -> None:
    """One worker; each turn brings more jobs for the loaded base than it can take, among them one for another base."""
    waiting = [job(number, since=0.0) for number in range(popular)]
    loaded = Loaded(base="red", loras=())
    now, numbers, lonely = 0.0, 1000, None
    for turn, arriving in enumerate(arrivals * 10):
        if turn == lonely_at:
            lonely = job(numbers, "blue", since=now)
            waiting.append(lonely)
        waiting += [job(numbers + 1 + extra, since=now) for extra in range(arriving)]
        numbers += 10
        chosen = pick(waiting, {0: loaded}, now=now, longest_wait=BOUND)
        assert chosen is not None
        begun = chosen[0]
        waiting.remove(begun)
        if lonely is not None and now - lonely.since > BOUND:
            # Passed over for long enough: only older ones may still come before it.
            assert (begun.since, begun.number) <= (lonely.since, lonely.number)
        if begun is lonely:
            return
        loaded = Loaded(base=begun.base, loras=())
        now += durations[turn % len(durations)]
    # Only jobs older than the lonely one can have kept it waiting all that time.
    assert lonely is not None
    assert min(waiting, key=lambda one: (one.since, one.number)).since <= lonely.since


async def test_worker_and_job_find_each_other_whoever_comes_first() -> None:
    queue = JobQueue(BOUND)
    queue.put(1, "red", ())
    assert (await queue.take(0, Loaded(base="", loras=()))).number == 1
    taking = asyncio.create_task(queue.take(0, Loaded(base="", loras=())))
    await asyncio.sleep(0)
    queue.put(2, "red", ())
    assert not queue.withdraw(2)
    assert (await taking).number == 2
    assert len(queue) == 0


async def test_withdrawn_job_is_begun_by_nobody() -> None:
    queue = JobQueue(BOUND)
    queue.put(1, "red", ())
    queue.put(2, "red", ())
    assert queue.withdraw(1)
    assert not queue.withdraw(1)
    assert (await queue.take(0, Loaded(base="", loras=()))).number == 2


@pytest.mark.parametrize("given_first", [False, True])
async def test_job_of_a_worker_that_gave_up_waits_on_for_the_next(given_first: bool) -> None:
    queue = JobQueue(BOUND)
    taking = asyncio.create_task(queue.take(0, Loaded(base="", loras=())))
    await asyncio.sleep(0)
    if given_first:
        # The worker has the job, but does not know it yet.
        queue.put(1, "red", ())
        taking.cancel()
    else:
        taking.cancel()
        queue.put(1, "red", ())
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert len(queue) == 1
    assert (await queue.take(1, Loaded(base="", loras=()))).number == 1


async def test_time_of_waiting_is_counted_from_the_put() -> None:
    now = 0.0
    queue = JobQueue(BOUND, clock=lambda: now)
    queue.put(1, "blue", ())
    now = BOUND - 1
    queue.put(2, "red", ())
    queue.put(3, "red", ())
    red = Loaded(base="red", loras=())
    assert (await queue.take(0, red)).number == 2
    now = BOUND + 1
    assert (await queue.take(0, red)).number == 1
    assert (await queue.take(0, red)).number == 3
