"""What bases are called: the names that clients know, and the base we bring along.

A published base has two names. Trainings ask for it by one without an extension; drawing asks for its file, which is
mostly the same with one. Either name means the base, whichever it was registered under.
"""

from enum import StrEnum
from pathlib import Path

from msgspec import Struct

EXTENSIONS = (".safetensors", ".ckpt", ".pt", ".bin")
"""What a model's file name may end in; other endings belong to a name."""
USUAL_EXTENSION = EXTENSIONS[0]


class BaseKind(StrEnum):
    """What a registered model is for."""

    CHECKPOINT = "checkpoint"
    VAE = "vae"
    EMBEDDING = "embedding"
    REFINER = "refiner"
    UPSCALER = "upscaler"


class KnownBase(Struct, frozen=True):
    """A published base. No weights come with it.

    Attributes:
        name: as trainings call it.
        family: inferred from the name; None where it says nothing.
        file: as drawing calls it, where that is not the name with the usual extension.
    """

    name: str
    family: str | None
    file: str | None = None

    @property
    def file_name(self) -> str:
        """As drawing calls it."""
        return self.file or self.name + USUAL_EXTENSION


KNOWN_BASES: tuple[KnownBase, ...] = (
    KnownBase("stable-diffusion-xl-base-1.0", "sdxl", "sd_xl_base_1.0.safetensors"),
    KnownBase("dreamshaperXL09Alpha_alpha2Xl10_91562", "sdxl"),
    KnownBase("protovisionXLHighFidelity3D_release0630Bakedvae_154359", "sdxl"),
    KnownBase("v1-5-pruned-emaonly", "sd15"),
    KnownBase("epicrealism_naturalSin_121250", "sd15"),
    KnownBase("chilloutmix_NiPrunedFp32Fix", "sd15"),
    KnownBase("abyssorangemix3AOM3_aom3a3_10864", "sd15"),
    KnownBase("dreamshaper_8_93211", "sd15"),
    KnownBase("WFChild_v1.0", "sd15", "WFChild_v1.0.ckpt"),
    KnownBase("majichenmixrealistic_v10", "sd15", "majichenmixrealistic_v10_85701.safetensors"),
    KnownBase("realisticVisionV51_v51VAE_94301", "sd15"),
    KnownBase("sdxlUnstableDiffusers_v11_216694", "sdxl"),
    KnownBase("realisticVisionV40_v40VAE_81510", "sd15"),
    KnownBase("epicrealismXL_v10_247189", "sdxl"),
    KnownBase("somboy_v10_172675", None),
    KnownBase("yesmixXL_v10_283329", "sdxl"),
    KnownBase("animagineXLV31_v31_325600", "sdxl"),
)
"""Every documented `base_model`, in the published order; an error says of them what it can't say of others."""

BUNDLED_BASE = KnownBase("maquette-tiny", "sd15")
BUNDLED_PATH = Path(__file__).parent / "maquette_tiny"
"""Folder of the bundled base in diffusers layout."""


def stem(name: str) -> str:
    """A name without its file's extension, if it has one."""
    for extension in EXTENSIONS:
        if name.endswith(extension) and name != extension:
            return name.removesuffix(extension)
    return name


def file_name(name: str) -> str:
    """What drawing calls the file of a base of this name."""
    for known in KNOWN_BASES:
        if name == known.name:
            return known.file_name
    return name if name != stem(name) else name + USUAL_EXTENSION


def spellings(name: str) -> list[str]:
    """Every name that means the same base as this one, itself first, likelier ones before others."""
    alike = [known for known in KNOWN_BASES if stem(name) in (known.name, stem(known.file_name))]
    names = [name, stem(name), *(spelling for known in alike for spelling in (known.name, stem(known.file_name)))]
    return list(dict.fromkeys([*names, *(one + extension for one in names for extension in EXTENSIONS)]))
