"""From a prompt to what the denoiser is told: weights, embeddings, and prompts longer than the text encoder reads.

The tokens are cut into chunks that the text encoder reads one by one, and its answers are laid end to end, as the
AUTOMATIC1111 web interface does; the denoiser attends to any number of them.
"""

import itertools
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import safetensors.torch
import torch
from safetensors import SafetensorError

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import EmbeddingUse
from maquette.core.embeddings import OF_TWO_ENCODERS, vector_names
from maquette.core.ids import sha256_hex
from maquette.families.base import Unsupported
from maquette.families.prompts import parse


class Token(NamedTuple):
    """A token by its number in the vocabulary, or the vector, where there is one, that is read in its place."""

    number: int
    vector: torch.Tensor | None
    weight: float


class Said(NamedTuple):
    """What a text encoder says of prompts: of each token (prompts, tokens, width), and as a whole (prompts, width)."""

    embeds: torch.Tensor
    pooled: torch.Tensor


ReadEncoder: TypeAlias = Callable[[Any, torch.Tensor, int], Said]
"""Has a text encoder read tokens (prompts, tokens), and answers what one of its layers says; the third argument is
`clip_skip`, 1 more than how many of the last ones are left out."""


class PromptEncoder:
    """A base's text encoder of CLIP's kind (Radford et al. 2021, arXiv:2103.00020) for one picture.

    Args:
        tokenizer, text_encoder: the base's; both stay as they are.
        read: asks the layer that the denoiser was trained with.
        clip_skip: as published, 1 leaves no layer out.
        embeddings: further words.
        tensor: of this encoder's vectors in embeddings for several encoders; None where it is the only one.

    Raises:
        Unsupported: the text encoder has no more than `clip_skip` - 1 layers.
        BrokenBase: an embedding can't be loaded, is not what was registered, or is another text encoder's.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        *,
        read: ReadEncoder,
        clip_skip: int = 1,
        embeddings: Sequence[EmbeddingUse] = (),
        tensor: str | None = None,
    ) -> None:
        layers = text_encoder.config.num_hidden_layers
        if clip_skip > layers:
            raise Unsupported(f"clip_skip {clip_skip}: this base's text encoder has {layers} layers, one must be left")
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.read = read
        self.clip_skip = clip_skip
        self.tensor = tensor
        self.chunk_size: int = tokenizer.model_max_length - 2
        self.vectors = {use.word.lower(): self._read_embedding(use) for use in embeddings}
        # The longest first, so that a word that begins with another is found whole.
        words = "|".join(re.escape(word) for word in sorted(self.vectors, key=len, reverse=True))
        self.words = re.compile(rf"(?<!\w)({words})(?!\w)", re.IGNORECASE) if words else None

    def encode(self, *prompts: str) -> Said:
        """Encode prompts; all get as many chunks as the longest, empty ones at the end. The first speaks for all."""
        chunked = [self._chunks(prompt) for prompt in prompts]
        longest = max(len(chunks) for chunks in chunked)
        rows = [
            [self._encode_chunk(chunk) for chunk in [*chunks, *[[]] * (longest - len(chunks))]] for chunks in chunked
        ]
        return Said(
            torch.cat([torch.cat([said.embeds for said in row], dim=1) for row in rows]),
            torch.cat([row[0].pooled for row in rows]),
        )

    def _read_embedding(self, use: EmbeddingUse) -> torch.Tensor:
        """An embedding's vectors (vectors, width)."""
        try:
            data = Path(use.path).read_bytes()
            if (found := sha256_hex(data)) != use.sha256:
                raise BrokenBase(
                    f"the embedding {use.path} is not what was registered: its hash is {found}, not {use.sha256};"
                    " register it anew"
                )
            tensors = safetensors.torch.load(data)
        except (OSError, SafetensorError) as error:
            raise BrokenBase(f"the embedding {use.path} can't be read: {error}") from error
        names = vector_names(tensors)
        mine = [name for name in names if self.tensor in (None, name)]
        if len(mine) != 1:
            known = "one" if self.tensor is None else " and ".join(OF_TWO_ENCODERS)
            raise BrokenBase(
                f"the embedding {use.path} holds {len(names)} tensors of vectors; known are files of {known}"
            )
        vectors = tensors[mine[0]]
        vectors = vectors.float().reshape(-1, vectors.shape[-1] if vectors.ndim else 1)
        width = self.text_encoder.config.hidden_size
        if vectors.shape[1] != width:
            raise BrokenBase(
                f"the embedding {use.path} has vectors of {vectors.shape[1]} numbers, this base's have {width}"
            )
        if not 0 < len(vectors) <= self.chunk_size or not vectors.isfinite().all():
            raise BrokenBase(f"the embedding {use.path} must hold 1 to {self.chunk_size} vectors of finite numbers")
        return vectors

    def _chunks(self, prompt: str) -> list[list[Token]]:
        """A prompt's tokens in chunks, none longer than the text encoder reads; an embedding is never cut.

        A section begins a chunk of its own, though the one before has room.
        """
        chunks: list[list[Token]] = []
        for section in parse(prompt):
            chunks.append([])
            for unit in itertools.chain.from_iterable(self._units(text, weight) for text, weight in section):
                if len(chunks[-1]) + len(unit) > self.chunk_size:
                    chunks.append([])
                chunks[-1].extend(unit)
        return chunks

    def _units(self, text: str, weight: float) -> Generator[list[Token]]:
        """A text's tokens in groups that stay together: an embedding's vectors, else each alone."""
        # Splitting by a pattern with one group gives text and words in turn.
        for index, part in enumerate(self.words.split(text) if self.words else [text]):
            if index % 2:
                yield [Token(0, vector, weight) for vector in self.vectors[part.lower()]]
                continue
            ids = self.tokenizer(part, add_special_tokens=False, truncation=False, verbose=False).input_ids
            yield from ([Token(number, None, weight)] for number in ids)

    def _encode_chunk(self, chunk: Sequence[Token]) -> Said:
        """What the text encoder makes of one chunk."""
        tokenizer = self.tokenizer
        padding = [tokenizer.pad_token_id] * (self.chunk_size - len(chunk))
        ids = [tokenizer.bos_token_id, *(token.number for token in chunk), tokenizer.eos_token_id, *padding]
        # The first position is that of the beginning's own token.
        vectors = {place: token.vector for place, token in enumerate(chunk, start=1) if token.vector is not None}
        with _placed(self.text_encoder.get_input_embeddings(), vectors):
            said = self.read(self.text_encoder, torch.tensor([ids], device=self.text_encoder.device), self.clip_skip)
        if all(token.weight == 1 for token in chunk):
            return said
        weights = torch.ones(len(ids))
        weights[1 : len(chunk) + 1] = torch.tensor([token.weight for token in chunk])
        return Said(_weighted(said.embeds, weights.to(said.embeds)), said.pooled)


def last_layer(text_encoder: Any, tokens: torch.Tensor, clip_skip: int) -> Said:
    """The last layer that is not left out, normed as the last of all is."""
    said = text_encoder(tokens, output_hidden_states=clip_skip > 1)
    if clip_skip == 1:
        return Said(said.last_hidden_state, said.pooler_output)
    hidden = said.hidden_states[-clip_skip]
    # Libraries differ in whether there is a level of this name between.
    return Said(getattr(text_encoder, "text_model", text_encoder).final_layer_norm(hidden), said.pooler_output)


def layer_before(text_encoder: Any, tokens: torch.Tensor, clip_skip: int) -> Said:
    """The layer before the last that is not left out, as it is."""
    said = text_encoder(tokens, output_hidden_states=True)
    # Where the encoder ends in a projection its answer begins with the projected whole.
    pooled = said.text_embeds if hasattr(said, "text_embeds") else said.pooler_output
    return Said(said.hidden_states[-(clip_skip + 1)], pooled)


def reads_whole(tokenizer: Any, prompt: str, most: int | None = None) -> bool:
    """Whether a prompt has no more tokens than `most`; None is what the tokenizer says of its text encoder."""
    return len(tokenizer(prompt, truncation=False).input_ids) <= (most or tokenizer.model_max_length)


def _weighted(embeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Multiply each token's embedding (1, tokens, width) by its weight, and restore the mean size of all numbers.

    The web interface restores the mean itself. That is a difference of positive and negative numbers; where it is
    near zero, as in some text encoders, a small weight would blow everything up or turn its sign.
    """
    changed = embeds * weights[None, :, None]
    return changed * (embeds.abs().mean() / changed.abs().mean())


@contextmanager
def _placed(token_embedding: torch.nn.Module, vectors: Mapping[int, torch.Tensor]) -> Generator[None]:
    """Let the text encoder read these vectors at these positions, within the block."""

    def place(_module: torch.nn.Module, _arguments: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for position, vector in vectors.items():
            output[:, position] = vector.to(output)
        return output

    if not vectors:
        yield
        return
    handle = token_embedding.register_forward_hook(place)
    try:
        yield
    finally:
        handle.remove()
