"""What older servers have pinned is read, and known as the same by its hash."""

import msgspec
import pytest
from msgspec.structs import replace

from maquette.core.specs import ADDED_LATER, Optimizer, TrainingSpec, pinned_form
from maquette.testing.factories import training_spec

OLD = (
    b'{"task_type":"subject","base":{"name":"b","family":"sd15","sha256":"00"},'
    b'"preparation":{"width":512,"height":512,"face_crop_ratio":1.4,"face_restore":null},'
    b'"settings":{"train_batch_size":1,"learning_rate":0.0001,"max_train_steps":400,"seed":7,"lr_scheduler":"constant",'
    b'"lr_warmup_steps":0,"instance_prompt":"a photo of ohwx person","class_prompt":"person",'
    b'"with_prior_preservation":false,"prior_loss_weight":1.0,"train_text_encoder":false,"lora_r":16,"lora_alpha":16,'
    b'"lora_text_encoder_r":16,"lora_text_encoder_alpha":16},'
    b'"pictures":[{"name":"00-a.png","sha256":"11","caption":null}],'
    b'"sample":{"prompt":"a photo of ohwx person","seed":7,"steps":30,"guidance_scale":7.5,"width":512,"height":512}}'
)
"""As the first version wrote it."""


def test_an_old_spec_is_read_and_keeps_its_form() -> None:
    spec = msgspec.json.decode(OLD, type=TrainingSpec)
    assert (spec.settings.caption_dropout, spec.settings.random_flip, spec.preparation.buckets) == (0.0, False, False)
    assert spec.preparation.background == "#ffffff"
    assert pinned_form(spec) == OLD


@pytest.mark.parametrize(
    "setting",
    [
        {"caption_dropout": 0.1},
        {"shuffle_tags": True},
        {"random_flip": True},
        {"optimizer": Optimizer.PRODIGY},
        {"snr_gamma": 5.0},
        {"noise_offset": 0.05},
        {"zero_terminal_snr": True},
    ],
)
def test_what_was_added_later_counts_where_it_is_set(setting: dict[str, object]) -> None:
    spec = training_spec()
    changed = replace(spec, settings=replace(spec.settings, **setting))
    assert pinned_form(changed) != pinned_form(spec)
    assert msgspec.json.decode(pinned_form(changed), type=TrainingSpec) == changed


def test_pictures_that_are_held_out_and_samples_of_checkpoints_count_where_there_are_any() -> None:
    spec = training_spec(pictures=2)
    first, second = spec.pictures
    for changed in (
        replace(spec, pictures=(first, replace(second, held_out=True))),
        replace(spec, checkpoint_samples=(spec.sample,)),
    ):
        assert pinned_form(changed) != pinned_form(spec)
        assert msgspec.json.decode(pinned_form(changed), type=TrainingSpec) == changed


@pytest.mark.parametrize("part", ADDED_LATER)
def test_every_field_that_an_old_spec_lacks_is_known_to_have_been_added(part: str) -> None:
    spec = msgspec.json.decode(OLD, type=TrainingSpec)
    there = msgspec.json.decode(OLD)[part].keys()
    assert set(getattr(spec, part).__struct_fields__) == there | set(ADDED_LATER[part])
