"""Names of base models that clients know, and the base we bring along."""

from pathlib import Path

from msgspec import Struct


class KnownBase(Struct, frozen=True):
    """A published base name; its family is inferred from the name and may be unknown. No weights come with it."""

    name: str
    family: str | None


KNOWN_BASES: tuple[KnownBase, ...] = (
    KnownBase("stable-diffusion-xl-base-1.0", "sdxl"),
    KnownBase("dreamshaperXL09Alpha_alpha2Xl10_91562", "sdxl"),
    KnownBase("protovisionXLHighFidelity3D_release0630Bakedvae_154359", "sdxl"),
    KnownBase("v1-5-pruned-emaonly", "sd15"),
    KnownBase("epicrealism_naturalSin_121250", "sd15"),
    KnownBase("chilloutmix_NiPrunedFp32Fix", "sd15"),
    KnownBase("abyssorangemix3AOM3_aom3a3_10864", "sd15"),
    KnownBase("dreamshaper_8_93211", "sd15"),
    KnownBase("WFChild_v1.0", "sd15"),
    KnownBase("majichenmixrealistic_v10", "sd15"),
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
