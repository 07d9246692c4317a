"""TREC run files: query, Q0, document, rank, score and run tag on a line."""

from collections.abc import Iterable, Iterator

from probes.errors import BadSetting


def trec_word(id: str) -> str:
    """An id as a TREC file can hold it: white space becomes `_`."""
    return "_".join(id.split()) or "_"


def check_trec_ids(ids: Iterable[str]) -> None:
    """Raise BadSetting when two ids become the same word."""
    by_word: dict[str, str] = {}
    for id in ids:
        word = trec_word(id)
        if by_word.setdefault(word, id) != id:
            raise BadSetting(
                f"the ids {by_word[word]!r} and {id!r} are both {word!r} in a TREC run, which "
                "cannot hold white space: rename one"
            )


def trec_lines(query: str, scores: Iterable[tuple[str, float]], tag: str) -> Iterator[str]:
    """The lines of a run for one query, without their ends.

    Args:
        scores: Pairs of document id and score, best first.
        tag: Name of the run, the last field of each line.
    """
    for rank, (id, score) in enumerate(scores, start=1):
        yield f"{trec_word(query)} Q0 {trec_word(id)} {rank} {float(score)!r} {tag}"
