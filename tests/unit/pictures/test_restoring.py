"""Face restorers that other packages bring, installed as an installer leaves them."""

from pathlib import Path

import pytest
from PIL import Image

from maquette.pictures.restoring import RESTORERS, load_restorer

PACKAGE = """
class Restorer:
    identity = "brightener 1"

    def __init__(self, device):
        self.device = device

    def restore(self, image, upscale):
        return image.resize((round(image.width * upscale), round(image.height * upscale)))
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "face_brightener.py").write_text(PACKAGE)
    about = tmp_path / "face_brightener-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: face-brightener\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{RESTORERS.group}]\ngfpgan_1.4 = face_brightener:Restorer\n")
    return tmp_path


def test_nobody_restores_where_nobody_is_registered() -> None:
    assert load_restorer("gfpgan_1.4", "cpu") is None


def test_a_registered_restorer_restores(site: Path) -> None:
    restorer = load_restorer("gfpgan_1.4", "cpu")
    assert restorer is not None
    assert restorer.identity == "brightener 1"
    assert restorer.restore(Image.new("RGB", (10, 20)), 2.0).size == (20, 40)
    assert load_restorer("another", "cpu") is None
