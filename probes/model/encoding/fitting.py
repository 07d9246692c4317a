"""How a row is made to fit its limit: pictures and videos made smaller, texts cut at their end."""

from collections.abc import Callable, Sequence

from probes.media.perception import Perception, Piece

ATTEMPTS = 8
"""How often a medium is made smaller until it fits; tokens follow pixels, so two mostly do."""


def shares(needs: Sequence[int], room: int) -> list[int]:
    """How `room` is divided: equally, but what the smaller leave of theirs goes to the larger."""
    given = [0] * len(needs)
    order = sorted(range(len(needs)), key=needs.__getitem__)
    for left, i in zip(range(len(order), 0, -1), order, strict=True):
        given[i] = min(needs[i], max(room, 0) // left)
        room -= given[i]
    return given


def fit_media(
    perception: Perception, pieces: Sequence[Piece], room: int, count: Callable[[str], int]
) -> list[Piece]:
    """The media of a row, the largest made smaller until all take at most `room` tokens.

    Audio stays as it is, and so does a picture that a processor brings to a size of its own: the
    row may still be too long afterwards.

    Args:
        perception: The processor that reads them.
        pieces: The media, as `perception.pieces` gives them.
        room: Tokens that the row has for them.
        count: Tokens of a text.
    """
    needs = [count(piece.text) for piece in pieces]
    seen = [i for i, piece in enumerate(pieces) if piece.part.kind != "audio"]
    heard = sum(needs) - sum(needs[i] for i in seen)
    fitted = list(pieces)
    for i, share in zip(seen, shares([needs[i] for i in seen], room - heard), strict=True):
        for _ in range(ATTEMPTS):
            have = count(fitted[i].text)
            if have <= share:
                break
            fitted[i] = perception.smaller(fitted[i], share / have)
    return fitted
