"""The tokenizer: CLIP's byte-level BPE, with merges learnt from the words of the captions.

Every caption word becomes one token. An unknown word, a trigger such as "ohwx" say, falls apart into short pieces, down
to single bytes if need be, so that any text has tokens of its own and nothing is ever "unknown".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

MAX_LENGTH = 77
_END_OF_WORD = "</w>"
_SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Build a tokenizer to which each of `words` (lower-case ASCII) is a single token."""
    merges = _learn_merges(words)
    byte_symbols = sorted(ByteLevel.alphabet())
    symbols = byte_symbols + [symbol + _END_OF_WORD for symbol in byte_symbols]
    symbols += ["".join(pair) for pair in merges]
    symbols += _SPECIAL_TOKENS
    vocab = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=_SPECIAL_TOKENS[1], model_max_length=MAX_LENGTH)


def _learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair of neighbouring pieces until each word is one piece; ties go by the alphabet."""
    spellings = [[*word[:-1], word[-1] + _END_OF_WORD] for word in sorted(set(words))]
    merges = []
    while pairs := Counter(pair for pieces in spellings for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = [_merge(pieces, best) for pieces in spellings]
    return merges


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
