"""Fit a row to its limit: scale pictures and videos down, and divide the room among texts."""

from collections.abc import Callable, Sequence

from probes.media.perception import Perception, Piece

ATTEMPTS = 8
"""Most times that a medium is scaled down. Tokens are about proportional to pixels, so two mostly
suffice."""


def shares(needs: Sequence[int], room: int) -> list[int]:
    """Divide `room` equally, except that those who need less leave the rest to the others."""
    shared = [0] * len(needs)
    order = sorted(range(len(needs)), key=needs.__getitem__)
    for remaining, i in zip(range(len(order), 0, -1), order, strict=True):
        shared[i] = min(needs[i], max(room, 0) // remaining)
        room -= shared[i]
    return shared


def fit_media(
    perception: Perception, pieces: Sequence[Piece], room: int, count: Callable[[str], int]
) -> list[Piece]:
    """Scale down the largest media of a row until all of them take at most `room` tokens; `count`
    counts the tokens of a text.

    Audio stays as it is, and so does a picture that the processor always resizes to the same size,
    so the row may still be too long afterwards.
    """
    needs = [count(piece.processed.text) for piece in pieces]
    visual = [i for i, piece in enumerate(pieces) if piece.part.kind != "audio"]
    of_audio = sum(needs) - sum(needs[i] for i in visual)
    fitted = list(pieces)
    for i, share in zip(visual, shares([needs[i] for i in visual], room - of_audio), strict=True):
        for _ in range(ATTEMPTS):
            length = count(fitted[i].processed.text)
            if length <= share:
                break
            fitted[i] = perception.smaller(fitted[i], share / length)
    return fitted
