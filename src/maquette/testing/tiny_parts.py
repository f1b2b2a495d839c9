"""Parts of tiny bases: the real classes with random weights, small enough to train on in a test."""

from typing import Any

from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTokenizer, T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH = 32
"""Channels of everything; narrower ones fall off the convolution kernels' fast path and train slower."""
POSITIONS = 77
T5_POSITIONS = 512


def tiny_autoencoder(latent_channels: int = 4, **options: Any) -> AutoencoderKL:
    """An autoencoder whose latents are a quarter as wide and high as pictures."""
    # Keywords through a map: the library's annotations are narrower than what it takes.
    config: dict[str, Any] = {
        "block_out_channels": (WIDTH, WIDTH, WIDTH),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": latent_channels,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 64,
        "mid_block_add_attention": False,
    }
    return AutoencoderKL(**config, **options)


def tiny_clip(tokenizer: Any, *, layers: int = 1, width: int = WIDTH) -> CLIPTextConfig:
    """The configuration of a text encoder of CLIP's kind that reads what a tokenizer writes."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def letter_tokenizer() -> Any:
    """CLIP's tokenizer, which reads any text letter by letter: every byte, and every byte that ends a word."""
    letters = list(bytes_to_unicode().values())
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[], model_max_length=POSITIONS
    )


def t5_letter_tokenizer() -> Any:
    """T5's tokenizer, which reads printable ASCII letter by letter."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=T5_POSITIONS)
