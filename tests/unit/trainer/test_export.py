"""A LoRA's files: none with a number that is not finite, and none that the disk did not keep as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maquette.core.lifecycle import Reason
from maquette.core.specs import TrainingSpec
from maquette.families.base import Adapters, load_family
from maquette.testing.factories import training_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer import tensors
from maquette.trainer.export import export_kohya, export_lora
from maquette.trainer.failures import RunFailed

pytestmark = pytest.mark.torch

SPEC = training_spec()
Export = Callable[[Path, Adapters, TrainingSpec], None]


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    """Of a tiny base, with an untrained LoRA attached."""
    family = load_family("sd15")
    adapters = family.adapters(family.pipeline.load(build_tiny_base(tmp_path / "base"), torch.device("cpu")))
    adapters.attach(SPEC.settings)
    return adapters


@pytest.mark.parametrize("export", [export_lora, export_kohya])
class TestEitherLayout:
    def test_a_number_that_is_not_finite_is_not_written(
        self, export: Export, adapters: Adapters, tmp_path: Path
    ) -> None:
        weight = list(adapters.parameters().values())[-1]
        with torch.no_grad():
            weight.view(-1)[3] = torch.nan
        with pytest.raises(RunFailed, match=r"the trained weight .*up_blocks.* is not finite") as failure:
            export(tmp_path / "lora", adapters, SPEC)
        assert failure.value.reason is Reason.DIVERGED
        assert not (tmp_path / "lora").exists()

    def test_what_the_disk_changed_is_told(
        self, export: Export, adapters: Adapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tensors, "write_atomic", lambda path, data: path.write_bytes(with_a_bit_lost(data)))
        with pytest.raises(OSError, match="lora does not hold the weights that were written to it"):
            export(tmp_path / "lora", adapters, SPEC)


def with_a_bit_lost(data: bytes) -> bytes:
    """Of the last number."""
    return data[:-1] + bytes([data[-1] ^ 1])
