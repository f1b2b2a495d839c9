"""The order of jobs: near to what is loaded first, nobody passed over for longer than the bound."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.core.drawing import NOTHING_LOADED, BaseUse, Loaded, LoadedBase
from maquette.serving.queue import JobQueue, Patience, Waiting, distance, pick

RED, BLUE = BaseUse("/bases/1", "red"), BaseUse("/bases/1", "blue")
BASES = (RED, BLUE)
LORAS = ("a", "b", "c")
BOUND = 10.0
SLICE = 4
PATIENCE = Patience(longest_wait=BOUND, slice=SLICE)

loras = st.lists(st.sampled_from(LORAS), unique=True).map(tuple)
loadeds = st.builds(
    Loaded,
    bases=st.lists(st.builds(LoadedBase, st.sampled_from(BASES), loras), max_size=2, unique_by=lambda each: each.base),
    room=st.booleans(),
)
jobs = st.builds(
    lambda number, base, loras, since: Waiting(number=number, base=base, loras=loras, since=since),
    st.integers(0, 20),
    st.sampled_from(BASES),
    loras,
    st.integers(0, 40).map(float),
)
queues = st.lists(jobs, max_size=8, unique_by=lambda job: job.number)
workers = st.dictionaries(st.integers(0, 3), loadeds, max_size=3)


def job(number: int, base: BaseUse = RED, *loras: str, since: float = 0.0) -> Waiting:
    return Waiting(number=number, base=base, loras=loras, since=since)


def loaded(base: BaseUse, *loras: str) -> Loaded:
    """What a worker holds that keeps one base."""
    return Loaded(bases=(LoadedBase(base, loras),), room=False)


def test_base_comes_before_loras_and_loras_before_age() -> None:
    free = {0: loaded(RED, "a", "b")}
    other_base, unloaded, half, whole = (
        job(1, BLUE, "a", "b"),
        job(2, RED, "c", "d"),
        job(3, RED, "a", "c"),
        job(4, RED, "a", "b"),
    )
    waiting = [other_base, unloaded, half, whole]
    order: list[Waiting] = []
    while chosen := pick(waiting, free, now=1.0, patience=PATIENCE):
        order.append(chosen[0])
        waiting.remove(chosen[0])
    assert order == [whole, half, unloaded, other_base]


def test_job_goes_to_the_worker_that_has_most_of_it_and_to_a_fresh_one_before_another_base() -> None:
    free = {
        0: loaded(BLUE),
        1: NOTHING_LOADED,
        2: loaded(RED),
        3: loaded(RED, "a"),
    }
    for expected in (3, 2, 1, 0):
        chosen = pick([job(1, RED, "a")], free, now=1.0, patience=PATIENCE)
        assert chosen is not None
        assert chosen[1] == expected
        del free[expected]
    assert pick([job(1)], free, now=1.0, patience=PATIENCE) is None


def test_every_base_in_a_workers_memory_counts_and_each_with_its_own_loras() -> None:
    both = Loaded(bases=(LoadedBase(RED, ("a",)), LoadedBase(BLUE, ("b",))), room=False)
    assert [distance(job(1, base, lora), both) for base in BASES for lora in ("a", "b")] == [
        *((0, 0), (0, 1)),
        *((0, 1), (0, 0)),
    ]
    roomy = Loaded(bases=loaded(BLUE).bases, room=True)
    assert distance(job(1, BLUE), roomy) < distance(job(1, RED), roomy) < distance(job(1, RED), loaded(BLUE))


@given(queues, workers, st.integers(40, 60).map(float))
def test_no_other_is_nearer_and_once_the_oldest_is_overdue_none_of_its_slice(
    waiting: list[Waiting], free: dict[int, Loaded], now: float
) -> None:
    chosen = pick(waiting, free, now=now, patience=PATIENCE)
    if not waiting or not free:
        assert chosen is None
        return
    assert chosen is not None
    begun, worker = chosen
    assert begun in waiting
    oldest = min(waiting, key=lambda one: (one.since, one.number))
    if now - oldest.since > BOUND:
        waiting = [one for one in waiting if one.number // SLICE == oldest.number // SLICE]
        assert begun in waiting
    bases = {number: {each.base for each in held.bases} for number, held in free.items()}
    if any(one.base in held for one in waiting for held in bases.values()):
        assert begun.base in bases[worker]
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
    passed = 0
    waiting = [job(number, since=0.0) for number in range(popular)]
    held = RED
    now, numbers, lonely = 0.0, 1000, None
    for turn, arriving in enumerate(arrivals * 10):
        if turn == lonely_at:
            lonely = job(numbers, BLUE, since=now)
            waiting.append(lonely)
        waiting += [job(numbers + 1 + extra, since=now) for extra in range(arriving)]
        numbers += 10
        chosen = pick(waiting, {0: loaded(held)}, now=now, patience=PATIENCE)
        assert chosen is not None
        begun = chosen[0]
        waiting.remove(begun)
        if lonely is not None and now - lonely.since > BOUND:
            passed += begun.place > lonely.place
            assert passed < SLICE
        if begun is lonely:
            return
        held = begun.base
        now += durations[turn % len(durations)]
    # Only jobs older than the lonely one can have kept it waiting all that time.
    assert lonely is not None
    assert min(waiting, key=lambda one: (one.since, one.number)).since <= lonely.since


def test_a_backlog_that_is_overdue_as_a_whole_is_still_drawn_base_by_base_and_lora_by_lora() -> None:
    waiting = [job(number, (RED, BLUE)[number % 2], ("a", "b", "c")[number % 3]) for number in range(8 * SLICE * SLICE)]
    bound = Patience(longest_wait=BOUND, slice=SLICE * SLICE)
    held, bases_loaded, order = NOTHING_LOADED, 0, list[Waiting]()
    while chosen := pick(waiting, {0: held}, now=10 * BOUND, patience=bound):
        begun, _ = chosen
        waiting.remove(begun)
        bases_loaded += begun.base not in {each.base for each in held.bases}
        order.append(begun)
        held = loaded(begun.base, *begun.loras)
    kinds = [(one.base, one.loras) for one in order]
    assert bases_loaded <= 2 * 8
    assert sum(one != other for one, other in pairwise(kinds)) < 6 * 8
    for place, begun in enumerate(order):
        assert abs(begun.number - place) < bound.slice


async def test_worker_and_job_find_each_other_whoever_comes_first() -> None:
    queue = JobQueue(PATIENCE)
    queue.put(1, RED, ())
    assert (await queue.take(0, NOTHING_LOADED)).number == 1
    taking = asyncio.create_task(queue.take(0, NOTHING_LOADED))
    await asyncio.sleep(0)
    queue.put(2, RED, ())
    assert not queue.withdraw(2)
    assert (await taking).number == 2
    assert len(queue) == 0


async def test_withdrawn_job_is_begun_by_nobody() -> None:
    queue = JobQueue(PATIENCE)
    queue.put(1, RED, ())
    queue.put(2, RED, ())
    assert queue.withdraw(1)
    assert not queue.withdraw(1)
    assert (await queue.take(0, NOTHING_LOADED)).number == 2


@pytest.mark.parametrize("given_first", [False, True])
async def test_job_of_a_worker_that_gave_up_waits_on_for_the_next(given_first: bool) -> None:
    queue = JobQueue(PATIENCE)
    taking = asyncio.create_task(queue.take(0, NOTHING_LOADED))
    await asyncio.sleep(0)
    if given_first:
        # The worker has the job, but does not know it yet.
        queue.put(1, RED, ())
        taking.cancel()
    else:
        taking.cancel()
        queue.put(1, RED, ())
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert len(queue) == 1
    assert (await queue.take(1, NOTHING_LOADED)).number == 1


async def test_time_of_waiting_is_counted_from_the_put() -> None:
    now = 0.0
    queue = JobQueue(PATIENCE, clock=lambda: now)
    queue.put(1, BLUE, ())
    now = BOUND - 1
    queue.put(SLICE, RED, ())
    queue.put(SLICE + 1, RED, ())
    red = loaded(RED)
    assert (await queue.take(0, red)).number == SLICE
    now = BOUND + 1
    assert (await queue.take(0, red)).number == 1
    assert (await queue.take(0, red)).number == SLICE + 1
