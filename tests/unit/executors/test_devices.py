from pathlib import Path

import pytest

from maquette.executors.devices import detect_devices


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["null", "nvidiactl", "nvidia-uvm", "nvidia0"], ("cuda:0",)),
        (["nvidia10", "nvidia2"], ("cuda:0", "cuda:1")),
        (["null", "nvidiactl"], ("cpu",)),
    ],
)
def test_auto_is_every_nvidia_device_or_the_cpu(tmp_path: Path, files: list[str], expected: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert detect_devices("auto", tmp_path) == expected


def test_a_list_is_taken_as_it_is() -> None:
    assert detect_devices("cuda:0, cuda:2,") == ("cuda:0", "cuda:2")
