"""Plans for runs of Stable Diffusion 1.5 in its real size, without a byte of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from maquette.core.specs import Optimizer
from maquette.families.flux1.spec import SPEC as FLUX1
from maquette.families.memory import (
    LIBRARIES,
    USABLE,
    Layout,
    MemoryModel,
    MemoryPlan,
    NothingLeaner,
    Sizes,
    choose,
    layout_of,
    measure_sizes,
    plans,
)
from maquette.families.registry import FAMILIES, load_spec
from maquette.families.sd15.spec import SPEC
from maquette.testing.factories import training_spec

MODEL = SPEC.memory
PUBLISHED = MODEL.published_sizes
BFLOAT16, FLOAT32 = 2, 4
PLENTY = 1 << 40
GIB = 1 << 30
T5_OF_TWO_LAYERS = 517_494_784
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def layout(
    *, on_host: bool = False, model: MemoryModel = MODEL, sizes: Sizes = PUBLISHED, side: int = 512, **settings: Any
) -> Layout:
    spec = training_spec()
    spec = replace(
        spec,
        preparation=replace(spec.preparation, width=side, height=side),
        settings=replace(spec.settings, **settings),
    )
    weight_bytes = FLOAT32 if on_host else BFLOAT16
    return layout_of(spec, model, sizes, weight_bytes=weight_bytes, on_host=on_host, graphs=not on_host)


def in_buckets(asked: Layout) -> Layout:
    """The same for pictures that keep their shapes."""
    spec = asked.spec
    return replace(asked, spec=replace(spec, preparation=replace(spec.preparation, buckets=True)))


def without_graphs(asked: Layout) -> MemoryPlan:
    return next(plan for plan in plans(asked) if not plan.cuda_graphs)


def test_with_plenty_of_memory_nothing_is_given_up() -> None:
    plan = choose(layout(train_batch_size=4), PLENTY)
    assert (plan.cuda_graphs, plan.together, plan.gradient_checkpointing, plan.micro_batch) == (True, True, False, 4)


@pytest.mark.parametrize("family", FAMILIES.own_names())
def test_the_estimate_is_what_was_measured_or_a_little_above_it(family: str) -> None:
    """On a GPU, with bases of their published sizes: the peak with graphs of one shape, where nothing was drawn."""
    found = json.loads((RESULTS / f"train_loop_{family}_real_cuda.json").read_bytes())
    model, taken = load_spec(family).memory, found["plain"]["ours"]["peak_bytes"]
    sizes = model.published_sizes
    if found["reduced"]:
        # All were there at once, with a T5 of two layers (`benchmarks/real_sizes.py`).
        sizes = replace(sizes, frozen_encoders=T5_OF_TWO_LAYERS)
    asked = layout(
        model=model,
        sizes=sizes,
        side=found["side"],
        train_batch_size=found["batch"],
        lora_r=found["rank"],
    )
    assert taken <= without_graphs(asked).needed < 1.1 * taken


def test_graphs_leave_room_for_a_sample_beside_their_activations() -> None:
    asked = replace(layout(), drawn_pixels=1024 * 1024)
    graphed, plain, *_ = plans(asked)
    activations = MODEL.activations * asked.pixels * BFLOAT16
    assert graphed.needed > plain.needed
    assert graphed.needed == pytest.approx(drawn(asked) + activations, abs=1)


def drawn(asked: Layout) -> int:
    """What drawing takes alone, as of a base that trains in next to nothing."""
    return without_graphs(replace(asked, pixels=0)).needed


def test_graphs_leave_room_for_the_first_batch_of_another_size() -> None:
    graphed, plain, *_ = plans(in_buckets(layout()))
    assert graphed.needed - plain.needed == MODEL.activations * 512 * 512 * BFLOAT16


def test_there_are_no_graphs_where_the_host_computes() -> None:
    assert not any(plan.cuda_graphs for plan in plans(layout(on_host=True)))


def test_each_plan_is_leaner_than_the_one_before() -> None:
    found = list(plans(layout(train_batch_size=4, with_prior_preservation=True)))
    assert [(plan.cuda_graphs, plan.together, plan.gradient_checkpointing, plan.micro_batch) for plan in found] == [
        (True, True, False, 8),
        (False, True, False, 8),
        (True, True, True, 8),
        (False, False, True, 8),
        (False, False, True, 4),
        (False, False, True, 2),
        (False, False, True, 1),
    ]


@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize("side", [512, 1024])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("family", FAMILIES.own_names())
@pytest.mark.parametrize("graphs", [False, True])
def test_none_takes_more_than_the_one_before(family: str, rows: int, side: int, *, buckets: bool, graphs: bool) -> None:
    model = load_spec(family).memory
    asked = layout(model=model, sizes=model.published_sizes, side=side, train_batch_size=rows)
    asked = replace(in_buckets(asked) if buckets else asked, graphs=graphs)
    sizes = [plan.needed for plan in plans(asked)]
    assert sizes == sorted(sizes, reverse=True)


def test_a_device_without_graphs_gives_up_room_before_speed() -> None:
    found = list(plans(replace(layout(), graphs=False)))
    assert [(plan.together, plan.gradient_checkpointing) for plan in found] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_the_hosts_libraries_count_where_the_host_computes() -> None:
    asked = layout(on_host=True)
    assert without_graphs(asked).needed - without_graphs(replace(asked, on_host=False)).needed == LIBRARIES


def test_on_the_host_moving_parts_away_frees_nothing() -> None:
    assert all(plan.together for plan in plans(layout(on_host=True, train_batch_size=4)))


@pytest.mark.parametrize(("free", "rung"), [(20e9, 0), (9.6e9, 1), (8e9, 2), (4.5e9, 3), (3.5e9, 4), (1e9, 5)])
def test_the_first_plan_that_fits_is_chosen_and_the_leanest_where_none_does(free: float, rung: int) -> None:
    asked = layout(train_batch_size=4)
    assert choose(asked, int(free)) == list(plans(asked))[rung]


@pytest.mark.parametrize(
    ("free", "rungs"),
    [(PLENTY, [0, 2, 4, 5]), (9.6e9, [1, 2, 4, 5]), (3.5e9, [4, 5])],
    ids=["graphs", "no room for graphs", "next to the leanest"],
)
def test_each_time_a_run_has_run_out_of_memory_it_is_planned_a_quarter_leaner(free: float, rungs: list[int]) -> None:
    """Or as lean as there is: to do without graphs saves next to nothing, and half of two pictures 16 %."""
    asked = layout(train_batch_size=4)
    ladder = list(plans(asked))
    assert [ladder.index(choose(asked, int(free), leaner=tries)) for tries in range(len(rungs))] == rungs
    with pytest.raises(NothingLeaner, match=r"the leanest plan takes about 2\.\d\d GiB of the .* GiB that are free"):
        choose(asked, int(free), leaner=len(rungs))


def test_one_retry_of_flux1_with_its_text_encoder_saves_a_quarter() -> None:
    """To move its autoencoder away and no more, or its CLIP, would save a hundredth."""
    asked = flux1(side=512, train_text_encoder=True)
    free = int(without_graphs(asked).needed / USABLE) + 1
    first, second = (choose(asked, free, leaner=tries).needed for tries in range(2))
    assert second < 0.75 * first


@pytest.mark.parametrize(
    "setting",
    [{"lora_r": 64}, {"train_text_encoder": True}, {"train_batch_size": 2}, {"optimizer": Optimizer.PRODIGY}],
)
def test_whoever_asks_for_more_is_told_of_more(setting: dict[str, Any]) -> None:
    assert choose(layout(**setting), PLENTY).needed > choose(layout(), PLENTY).needed


def flux1(*, side: int, **settings: Any) -> Layout:
    """The same for FLUX.1, whose text encoders take as much as a small base."""
    return layout(model=FLUX1.memory, sizes=FLUX1.memory.published_sizes, side=side, **settings)


def test_parts_that_take_turns_never_need_room_for_two() -> None:
    """To draw with, either: FLUX.1's parts take 31.6 GiB together."""
    leanest = list(plans(flux1(side=512)))[-1]
    assert not leanest.together
    assert leanest.needed / GIB == pytest.approx(24.4, abs=0.1)


def test_a_text_encoder_that_can_not_train_takes_no_room_beside_one_that_does() -> None:
    """T5 reads before training begins: with it a run that trains CLIP would take 33.5 GiB at least."""
    plain, trained = (list(plans(flux1(side=512, train_text_encoder=trains)))[-1] for trains in (False, True))
    clip = FLUX1.memory.trained_encoders.parameters
    assert trained.needed / GIB == pytest.approx(24.7, abs=0.1)
    assert 0 < trained.needed - plain.needed - clip * BFLOAT16 < 0.1 * GIB


def test_a_picture_that_is_decoded_is_counted_up_to_a_tile() -> None:
    """While a small base draws a large one, that is most."""
    small = Sizes(PUBLISHED.denoiser // 100, PUBLISHED.text_encoders // 100, 0, PUBLISHED.autoencoder)
    asked = layout(sizes=small)
    drawn = {side: choose(replace(asked, drawn_pixels=side * side), PLENTY).needed for side in (1024, 1088, 2048)}
    assert drawn[1024] / GIB > 3
    assert drawn[1024] == drawn[1088] == drawn[2048]


@pytest.mark.parametrize("large", ["sample", "checkpoint_samples"])
def test_the_largest_picture_that_is_drawn_counts(large: str) -> None:
    spec = training_spec()
    wide = replace(spec.sample, width=512, height=768)
    spec = replace(spec, **{large: wide if large == "sample" else (spec.sample, wide)})
    assert (
        layout_of(spec, MODEL, PUBLISHED, weight_bytes=BFLOAT16, on_host=False, graphs=True).drawn_pixels == 512 * 768
    )


def test_text_encoders_that_train_keep_activations_of_every_prompt() -> None:
    def more(rows: int) -> int:
        plain, trained = (
            without_graphs(layout(train_batch_size=rows, train_text_encoder=trains)).needed for trains in (False, True)
        )
        return trained - plain

    rank, moments_and_gradients = 16, 4
    lora = MODEL.text_encoder_lora_per_rank * rank * moments_and_gradients * FLOAT32
    assert more(1) == lora + MODEL.text_encoder_activations * BFLOAT16
    assert more(4) == lora + 4 * MODEL.text_encoder_activations * BFLOAT16


def test_a_small_base_takes_little() -> None:
    small = Sizes(PUBLISHED.denoiser // 100, PUBLISHED.text_encoders // 100, 0, PUBLISHED.autoencoder // 100)
    assert choose(layout(sizes=small), PLENTY).needed < choose(layout(), PLENTY).needed / 8


def test_sizes_are_read_from_the_weights_headers_without_variants(tmp_path: Path) -> None:
    shapes = {"unet": [(2, 3)], "text_encoder": [(5,)], "vae": [(7,), (1, 4)]}
    for component, tensors in shapes.items():
        (tmp_path / component).mkdir()
        for index, shape in enumerate(tensors):
            write_header(tmp_path / component / f"model-{index}.safetensors", shape)
    write_header(tmp_path / "unet" / "model.fp16.safetensors", (100,))
    assert measure_sizes(tmp_path, MODEL) == Sizes(denoiser=6, trained_encoders=5, frozen_encoders=0, autoencoder=11)


def write_header(path: Path, shape: tuple[int, ...]) -> None:
    """A whole safetensors file of one tensor."""
    size = 4
    for side in shape:
        size *= side
    entry = f'{{"a":{{"dtype":"F32","shape":{list(shape)},"data_offsets":[0,{size}]}}}}'.encode()
    path.write_bytes(len(entry).to_bytes(8, "little") + entry + bytes(size))
