"""Pools of drawn pictures, kept in the work folder so that a resumed training needn't draw them again."""

from __future__ import annotations

import json
import multiprocessing
import random
from pathlib import Path

import numpy as np
from models import RESOLUTION
from scenes import Scene, random_jumble, random_scene

_PROCESSES = 2


def scene_pool(folder: Path, count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Return `count` captioned pictures: uint8 [count, 128, 128, 3] mapped from disk, and their captions."""
    pictures_file, captions_file = folder / f"scenes-{seed}-{count}.npy", folder / f"scenes-{seed}-{count}.json"
    if not captions_file.exists():
        captions: list[str] = []
        _draw(_scene, pictures_file, count, seed, captions)
        captions_file.write_text(json.dumps(captions))
    return np.load(pictures_file, mmap_mode="r"), json.loads(captions_file.read_text())


def jumble_pool(folder: Path, count: int, seed: int) -> np.ndarray:
    """Return `count` pictures that have no caption: uint8 [count, 128, 128, 3] mapped from disk."""
    file = folder / f"jumbles-{seed}-{count}.npy"
    if not file.exists():
        _draw(_jumble, file, count, seed, [])
    return np.load(file, mmap_mode="r")


def _scene(seed: str) -> Scene:
    return random_scene(random.Random(seed))


def _jumble(seed: str) -> Scene:
    return Scene(random_jumble(random.Random(seed)), "")


def _draw(draw_one, file: Path, count: int, seed: int, captions: list[str]) -> None:
    """Draw each picture from a seed of its own, so that the number of processes doesn't matter."""
    partial = file.with_suffix(".partial")
    shape = (count, RESOLUTION, RESOLUTION, 3)
    pictures = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    with multiprocessing.Pool(_PROCESSES) as workers:
        seeds = (f"{seed}/{number}" for number in range(count))
        for number, scene in enumerate(workers.imap(draw_one, seeds, chunksize=64)):
            pictures[number] = scene.picture
            captions.append(scene.caption)
    pictures.flush()
    partial.replace(file)
