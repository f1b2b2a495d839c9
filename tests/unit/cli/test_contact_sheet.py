from pathlib import Path

from PIL import Image

from maquette.cli.contact_sheet import CELL, GAP, HEADER_HEIGHT, LABEL_WIDTH, Row, draw_sheet

RED, GREEN = (200, 0, 0), (0, 200, 0)


def test_every_picture_stands_under_its_header_and_beside_its_label(tmp_path: Path) -> None:
    for name, colour in (("red.png", RED), ("green.png", GREEN)):
        Image.new("RGB", (64, 64), colour).save(tmp_path / name)
    target = tmp_path / "sheet.png"
    draw_sheet(["one", "two"], [Row("row", [tmp_path / "red.png", tmp_path / "green.png"])], target)
    with Image.open(target) as sheet:
        middle = HEADER_HEIGHT + CELL // 2
        assert sheet.getpixel((LABEL_WIDTH + CELL // 2, middle)) == RED
        assert sheet.getpixel((LABEL_WIDTH + CELL + GAP + CELL // 2, middle)) == GREEN
        header = sheet.crop((LABEL_WIDTH, 0, LABEL_WIDTH + CELL, HEADER_HEIGHT)).convert("L")
        assert sum(header.histogram()[:128]) > 0, "the header is missing"
