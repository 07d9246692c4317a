"""Select the synonym pairs and their controls: `probes/data/synonyms.csv`.

    pip install wordfreq==3.1.1
    python scripts/select_synonyms.py WORDNET_DICT probes/data/synonyms.csv

The project does not depend on wordfreq and does not declare it: only this script needs it, once.
`WORDNET_DICT` is the folder of WordNet 3.0's database files (`index.*`, `data.*`, `*.exc`,
`cntlist.rev`); Debian's package `wordnet-base` installs it as `/usr/share/wordnet`.

A **synonym** pair is two words of the synset that is the first sense of both. Both are frequent
(Zipf frequency ≥ 3.5: three uses in a million words), attested in that sense in WordNet's tagged
corpus, uninflected and unlike in spelling. Pairs are ranked by the share of each word's tagged
uses, over all its senses and parts of speech, that falls in senses common to the two: a pair whose
words mean little else comes first. No word is used twice. Pairs that pass these rules but that a
reader would not call synonyms are listed in `NOT_SYNONYMS`.

A **control** pair keeps the first word and takes the second of another synonym pair of the same
part of speech and the same band of frequency: a derangement in each band, so both columns
hold exactly the same words in both kinds. No sense of one word is within two WordNet relations
of any sense of the other (synonyms, antonyms, hypernyms, sisters, …).

The columns are kind (synonym | control), a, b and pos (noun | verb | adj | adv); a is the more
frequent word of a synonym pair.

Sources:
- WordNet 3.0, Copyright 2006 by Princeton University, under the WordNet 3.0 licence, which permits
  use, copying, modification and distribution without fee. C. Fellbaum (ed.), WordNet: An Electronic
  Lexical Database, MIT Press, 1998. https://wordnet.princeton.edu
- wordfreq 3.1.1: code Apache-2.0, data CC BY-SA 4.0. R. Speer, rspeer/wordfreq, Zenodo, 2022.
  https://doi.org/10.5281/zenodo.7199437
"""

import argparse
import csv
import random
from collections import defaultdict
from difflib import SequenceMatcher
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

from wordfreq import zipf_frequency  # pyright: ignore[reportMissingImports]

SEED = 0
QUOTA = {"noun": 125, "verb": 63, "adj": 31, "adv": 31}
MIN_ZIPF = 3.5
BAND = 12  # approximate number of pairs per frequency band
TAG = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
NUMBER = ("noun", "verb", "adj", "adv", "adj")  # the part of speech of `%1:` … `%5:` in a sense key

# WordNet's detachment rules (morphy): an ending, and what replaces it in the lemma.
ENDINGS = {
    "noun": (("s", ""), ("es", ""), ("ies", "y"), ("men", "man")),
    "verb": (("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e")),
    "adj": (("er", ""), ("er", "e"), ("est", ""), ("est", "e")),
}

# Judged by eye: the common sense is obscure, or differs in degree or kind; a shared root or part
# that the spelling rule misses; regional spellings; homographs of names; function words; words that
# can offend.
NOT_SYNONYMS = """
    babe/infant batter/buffet battle/engagement castle/palace coalition/alignment comprehend/savvy
    conquer/suppress contribute/lend controller/accountant curious/peculiar curious/queer
    damage/impairment enterprise/endeavor extra/redundant extra/surplus food/nutrient fort/garrison
    guardian/defender hazard/jeopardy induction/initiation integral/inherent integrity/unity
    irony/sarcasm irony/satire mix/fuse nationalism/patriotism pike/freeway pit/cavity red/crimson
    satire/sarcasm setup/apparatus supporter/protagonist surplus/redundant talent/endowment
    assume/presume ensure/assure furthermore/moreover interrupt/disrupt mama/mommy
    standpoint/viewpoint usage/utilization use/utilize accomplish/fulfil decree/fiat
    mike/microphone but/merely someone/person john/toilet queer/peculiar whore/prostitute
"""
# Judged by eye: related pairs whose relation WordNet lacks.
NOT_CONTROLS = """
    consultant/instructor teacher/advisor kind/fashion heaven/globe need/supply relatively/wholly
    basically/primarily metro/freight minister/paradise provide/require fairly/utterly
    remarkably/immensely soon/seldom
"""
EXCLUDED = {frozenset(pair.split("/")) for pair in (NOT_SYNONYMS + NOT_CONTROLS).split()}

Synset = tuple[str, str]  # part of speech, offset


class Pair(NamedTuple):
    kind: str
    a: str
    b: str
    pos: str
    freq_a: float
    freq_b: float


class WordNet:
    """The database files as dictionaries.

    `senses[word][synset]` is (rank of the sense within its part of speech, tagged uses);
    `words[synset]` its words as written; `related[synset]` the synsets it points to.
    """

    def __init__(self, folder: Path) -> None:
        uses: dict[tuple[str, str, int], int] = {}
        for line in (folder / "cntlist.rev").read_text().splitlines():
            key, rank, count = line.split()
            word, sense = key.split("%")
            uses[word, NUMBER[int(sense[0]) - 1], int(rank)] = int(count)

        self.senses: dict[str, dict[Synset, tuple[int, int]]] = defaultdict(dict)
        self.words: dict[Synset, list[str]] = {}
        self.related: dict[Synset, set[Synset]] = {}
        self.irregular: set[str] = set()
        for pos in QUOTA:
            for line in entries(folder / f"index.{pos}"):
                word, _, count, *rest = line.split()
                for rank, offset in enumerate(rest[-int(count) :], start=1):
                    self.senses[word][pos, offset] = rank, uses.get((word, pos, rank), 0)
            for line in entries(folder / f"data.{pos}"):
                fields = line.split(" | ")[0].split()
                end = 4 + 2 * int(fields[3], 16)
                pointers = fields[end + 1 : end + 1 + 4 * int(fields[end])]
                synset = pos, fields[0]
                self.words[synset] = [word.split("(")[0] for word in fields[4:end:2]]
                self.related[synset] = {
                    (TAG[tag], offset)
                    for offset, tag in zip(pointers[1::4], pointers[2::4], strict=True)
                }
            for line in entries(folder / f"{pos}.exc"):
                form, *lemmas = line.split()
                if form not in lemmas:
                    self.irregular.add(form)

    def inflected(self, word: str, pos: str) -> bool:
        """Whether the word is a form of another lemma: a plural, a participle, a comparative."""
        kinds = ("noun", "verb", "adj") if pos in ("adj", "adv") else ("noun", "verb")
        return word in self.irregular or any(
            word.endswith(ending) and self.has(word.removesuffix(ending) + lemma, kind)
            for kind in kinds
            for ending, lemma in ENDINGS[kind]
        )

    def has(self, word: str, pos: str) -> bool:
        return any(synset[0] == pos for synset in self.senses.get(word, ()))

    def share(self, word: str, synsets: set[Synset]) -> float:
        """The share of the word's tagged uses that fall in `synsets`; untagged senses count ½."""
        weight = {synset: count + 0.5 for synset, (_, count) in self.senses[word].items()}
        return sum(weight[synset] for synset in synsets) / sum(weight.values())

    def near(self, a: str, b: str) -> bool:
        """Whether any sense of a is within two relations of any sense of b."""
        around_a, around_b = (
            {near for synset in self.senses[word] for near in (synset, *self.related[synset])}
            for word in (a, b)
        )
        return not around_a.isdisjoint(around_b)


def entries(path: Path) -> list[str]:
    """The file's lines without the licence, whose lines start with a blank."""
    return [line for line in path.read_text().splitlines() if not line.startswith(" ")]


def zipf(word: str) -> float:
    return zipf_frequency(word, "en")


def alike(a: str, b: str) -> bool:
    """Whether two words are similar in spelling: variants, one inside the other, a common stem."""
    return a[:3] == b[:3] or a in b or b in a or SequenceMatcher(None, a, b).ratio() >= 0.7


def candidates(net: WordNet) -> list[tuple[float, Pair]]:
    """All pairs that pass the rules, each with the smaller share of its two words, best first."""
    common: dict[tuple[str, str, str], set[Synset]] = defaultdict(set)
    for synset, words in net.words.items():
        fit = {
            word
            for word in words
            if word.isalpha() and word.islower() and len(word) >= 3 and zipf(word) >= MIN_ZIPF
        }
        for a, b in combinations(sorted(fit, key=lambda word: (-zipf(word), word)), 2):
            common[a, b, synset[0]].add(synset)

    ranked = []
    for (a, b, pos), synsets in common.items():
        first = any(
            all(net.senses[w][s][0] == 1 and net.senses[w][s][1] > 0 for w in (a, b))
            for s in synsets
        )
        inflected = net.inflected(a, pos) or net.inflected(b, pos)
        if first and not inflected and not alike(a, b) and frozenset((a, b)) not in EXCLUDED:
            share = min(net.share(a, synsets), net.share(b, synsets))
            ranked.append((share, Pair("synonym", a, b, pos, zipf(a), zipf(b))))
    return sorted(ranked, key=lambda entry: (-entry[0], entry[1]))


def synonyms(net: WordNet) -> list[Pair]:
    """The best pairs of each part of speech; no word is used twice."""
    selected: dict[str, list[Pair]] = {pos: [] for pos in QUOTA}
    used: set[str] = set()
    for _, pair in candidates(net):
        if len(selected[pair.pos]) < QUOTA[pair.pos] and used.isdisjoint((pair.a, pair.b)):
            selected[pair.pos].append(pair)
            used |= {pair.a, pair.b}
    return [pair for pos in QUOTA for pair in selected[pos]]


def controls(pairs: list[Pair], net: WordNet) -> list[Pair]:
    """The same words paired anew, within part of speech and frequency band of b."""
    result = []
    for pos in QUOTA:
        ordered = sorted((p for p in pairs if p.pos == pos), key=lambda p: (p.freq_b, p.b))
        bands = max(1, round(len(ordered) / BAND))
        cuts = [round(i * len(ordered) / bands) for i in range(bands + 1)]
        for start, end in pairwise(cuts):
            result += derangement(ordered[start:end], net)
    return result


def derangement(band: list[Pair], net: WordNet) -> list[Pair]:
    """The band's second words shuffled until no pair is related in meaning or spelling."""
    rng = random.Random(SEED)
    seconds = [(pair.b, pair.freq_b) for pair in band]
    for _ in range(100_000):
        rng.shuffle(seconds)
        new = [
            pair._replace(kind="control", b=b, freq_b=freq)
            for pair, (b, freq) in zip(band, seconds, strict=True)
        ]
        if not any(
            frozenset((p.a, p.b)) in EXCLUDED or alike(p.a, p.b) or net.near(p.a, p.b) for p in new
        ):
            return new
    raise RuntimeError(f"no unrelated pairing of {[pair.b for pair in band]}: enlarge BAND")


def main() -> None:
    parser = argparse.ArgumentParser(description="Select synonym pairs and their controls.")
    parser.add_argument("wordnet", type=Path, help="folder of WordNet's database files")
    parser.add_argument("output", type=Path, help="CSV file to write")
    arguments = parser.parse_args()

    net = WordNet(arguments.wordnet)
    pairs = synonyms(net)
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Pair._fields[:4])  # frequencies are used in the selection only
        writer.writerows(pair[:4] for pair in pairs + controls(pairs, net))


if __name__ == "__main__":
    main()
