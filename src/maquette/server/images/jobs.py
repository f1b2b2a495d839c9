"""What a pool is given for an image task."""

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.drawing import BaseUse, DrawRequest, EmbeddingUse, Original, RefinerUse
from maquette.core.image_specs import ImageSpec
from maquette.core.specs import BaseRef
from maquette.server.bases import service as bases
from maquette.serving.base import DrawJob, StoredLora


class Places(Struct, frozen=True, kw_only=True):
    """Where the operator's models lie that a task draws with; embeddings are files, in the spec's order."""

    base: BaseUse
    vae: BaseUse | None
    embeddings: tuple[BaseUse, ...]
    refiner: BaseUse | None


async def locate(conn: AsyncConnection, spec: ImageSpec) -> Places | BaseRef:
    """Look up where the pinned models lie now, or answer the first that is no longer registered as it was pinned."""
    refs = [spec.base, *(embedding.base for embedding in spec.embeddings)]
    refs += [spec.vae] if spec.vae else []
    refs += [spec.refiner.base] if spec.refiner else []
    found = {ref: await bases.locate(conn, ref) for ref in refs}
    for ref, place in found.items():
        if place is None:
            return ref
    places = {ref: BaseUse(place, ref.sha256) for ref, place in found.items() if place is not None}
    return Places(
        base=places[spec.base],
        vae=places[spec.vae] if spec.vae else None,
        embeddings=tuple(places[embedding.base] for embedding in spec.embeddings),
        refiner=places[spec.refiner.base] if spec.refiner else None,
    )


def jobs(spec: ImageSpec, places: Places, original: bytes | None) -> list[DrawJob]:
    """A job a picture, in the order of their seeds; `original` is the picture to start from, a file's bytes."""
    loras = tuple(StoredLora(key=lora.object_key, sha256=lora.sha256, strength=lora.strength) for lora in spec.loras)
    return [
        DrawJob(base=places.base, request=_request(spec, places, original, seed), loras=loras, format=spec.format)
        for seed in spec.seeds
    ]


def _request(spec: ImageSpec, places: Places, original: bytes | None, seed: int) -> DrawRequest:
    return DrawRequest(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        seed=seed,
        sampler=spec.sampler,
        clip_skip=spec.clip_skip,
        embeddings=tuple(
            EmbeddingUse(place.path, place.sha256, embedding.word)
            for embedding, place in zip(spec.embeddings, places.embeddings, strict=True)
        ),
        vae=places.vae,
        hires_fix=spec.hires_fix,
        refiner=RefinerUse(places.refiner, spec.refiner.switch_at) if spec.refiner and places.refiner else None,
        original=Original(original, spec.original_strength)
        if original is not None and spec.original_strength is not None
        else None,
    )
