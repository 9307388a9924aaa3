"""Sequences of the training stream as a person reads them: pieces of documents, where each is from, and its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lemur.data.inspection.figures import Figures

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

    from lemur.dataset import PieceOrigin, Provenance, TokenDataset

_LONGEST_BEGINNING = 240
"""Characters that are shown of the beginning of a piece."""
_LONGEST_ENDING = 60
_TOKENS_LOOKED_AT = 256
"""Decoded from each end of a piece. The characters above take fewer, whatever the language."""


class PieceText(Figures):
    """A piece of a sequence: consecutive tokens of one document."""

    origin: str
    """Where its document stands in the source: `path`, `path:line` or `dataset#row`."""
    documents: str
    """Prefix of the documents result below the storage root."""
    row: int
    """Row of the document there."""
    first_token: int
    """Where the piece begins in its document, in tokens."""
    end_token: int
    """Where it ends there, exclusive."""
    document_tokens: int
    """Length of the document, its end-of-text token included."""
    text: str
    """How its text begins; all of it, where `ending` is empty."""
    ending: str
    """How its text ends."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its document."""
        return self.end_token - self.first_token == self.document_tokens


class SampleText(Figures):
    """A sequence of the training stream."""

    place: int
    """Place in the stream, counted from 0."""
    source: str
    """Source it is from."""
    epoch: int
    """Complete passes over the source that came before."""
    sequence: int
    """Number of the sequence in the source, in stored order."""
    pieces: list[PieceText]
    """Its pieces, in order."""
    padding_tokens: int
    """Tokens of padding at its end."""


def read_sample(dataset: TokenDataset, provenance: Provenance, tokenizer: Tokenizer, place: int) -> SampleText:
    """Returns the sequence at a place of the stream.

    Args:
        dataset: The mixture.
        provenance: Where its documents came from.
        tokenizer: Its tokenizer.
        place: Place in the stream, counted from 0.

    Raises:
        IntegrityError: An object is missing or altered, named by its URI.
    """
    location = dataset.mixture.locate(place)
    sample = dataset.sample(place)
    pieces, start = [], 0
    for origin in provenance.of(place):
        tokens = sample.input_ids[start : start + origin.piece.length]
        start += origin.piece.length
        pieces.append(_piece_text(origin, tokens, tokenizer))
    return SampleText(
        place=place,
        source=location.source,
        epoch=location.epoch,
        sequence=location.sequence,
        pieces=pieces,
        padding_tokens=sample.num_padding,
    )


def _piece_text(origin: PieceOrigin, tokens: npt.NDArray[np.int64], tokenizer: Tokenizer) -> PieceText:
    text, ending = tokenizer.decode(tokens[:_TOKENS_LOOKED_AT].tolist(), skip_special_tokens=False), ""
    if len(tokens) > _TOKENS_LOOKED_AT or len(text) > _LONGEST_BEGINNING + _LONGEST_ENDING:
        ending = tokenizer.decode(tokens[-_TOKENS_LOOKED_AT:].tolist(), skip_special_tokens=False)
        text, ending = text[:_LONGEST_BEGINNING], ending[-_LONGEST_ENDING:]
    return PieceText(
        origin=origin.origin,
        documents=origin.piece.documents,
        row=origin.piece.document,
        first_token=origin.offset_tokens,
        end_token=origin.offset_tokens + origin.piece.length,
        document_tokens=origin.document_tokens,
        text=text,
        ending=ending,
    )
