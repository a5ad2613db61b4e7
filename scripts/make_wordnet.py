"""Make the data set `wordnet` from WordNet 3.0: definitions of nouns, and the tree above them.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    python scripts/make_wordnet.py wordnet/usr/share/wordnet

A class is a node of the noun tree with 300 to 1500 usable nouns at or below it and no node above it
that has so few. Its samples are the definitions of 300 of them, spread evenly over WordNet's own
order. Above a node stands the first of its hypernyms, which makes a tree of the graph.

Left out are persons with all below them, whatever the path; instances (Paris, Mount Everest); what
WordNet marks as slang, obscene or disparaging; definitions that hold one of `UNFIT`, which a reader
of the result found; definitions that occur twice. Examples of use are cut off.

The same input gives the same texts, byte for byte before compression.
"""

import argparse
import gzip
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from neuralcollapse.hierarchy import Hierarchy

LOW, HIGH = 300, 1500
ROOT, PERSON = "00001740", "00007846"
# Nouns in whose domain of usage a noun is left out, by their first word.
MARKS = {"slang", "obscenity", "disparagement", "ethnic_slur", "street_name", "euphemism"}
# Words that nobody needs for telling kinds of nouns apart.
UNFIT = re.compile(
    r"\b(offensive|derogat\w*|disparag\w*|\w*slur\w*|vulgar\w*|obscen\w*|slang|rac(?:is[mt]|ial)\w*|"
    r"negro\w*|coloured people|nazi\w*|hitler\w*|gestapo|jew(?:s|ish)?|gyps\w*|oriental|savage\w*|"
    r"primitive (?:people|tribe)\w*|sex|sexual\w*|erotic\w*|copulat\w*|coit\w*|prostitut\w*|"
    r"brothel\w*|pornogra\w*|homosex\w*|lesbian\w*|pervers\w*|incest\w*|rape|raped|rapist|"
    r"slaves?|slavery|suicid\w*|tortur\w*|genocid\w*|murder\w*|cripple\w*|retard(?:ed|ation)|"
    r"moron\w*|idiot\w*|lunatic\w*|insan(?:e|ity)|genitals?|genitalia|penis|vagina|semen|anus|"
    r"feces|excrement|terroris\w*|infidels?|ethnic\w*|aborigin\w*|amerindians?|indians|"
    r"(?:white|black|human|another|different|inferior) races?|non-white|persecuted|cremating|"
    r"female relative|black women|hatred of women|dancing girls|jihad\w*|phallic|ejaculat\w*|"
    r"masturbat\w*|orgasm\w*|fornicat\w*|adulter(?:y|ous)|promiscu\w*|lynch\w*)\b",
    re.IGNORECASE,
)
SOURCE = "WordNet 3.0, nouns"
FOLDER = Path(__file__).parents[1] / "src" / "neuralcollapse"


@dataclass
class Nouns:
    """What `data.noun` says, by the number of the synset, in the order of the file."""

    words: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    above: dict[str, list[str]] = field(default_factory=dict)
    instances: set[str] = field(default_factory=set)
    marks: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def below(self) -> dict[str, list[str]]:
        """The children of each node in the tree of first hypernyms."""
        found: dict[str, list[str]] = defaultdict(list)
        for synset, above in self.above.items():
            if above:
                found[above[0]].append(synset)
        return found

    def walk(self, top: str) -> Iterator[str]:
        """A node and all below it, parents first."""
        waiting = [top]
        while waiting:
            synset = waiting.pop()
            yield synset
            waiting += reversed(self.below.get(synset, []))

    def name(self, synset: str) -> str:
        """First word and synset id, as "bird n01503061": several nodes share a word."""
        return f"{self.words[synset].replace('_', ' ')} n{synset}"


def read_nouns(file: Path) -> Nouns:
    """The nouns of a file in WordNet's format (wndb(5WN))."""
    nouns = Nouns()
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        synset, num_words = fields[0], int(fields[3], 16)
        nouns.words[synset] = fields[4]
        start = 5 + 2 * num_words
        pointers = [fields[place : place + 4] for place in range(start, len(fields) - 3, 4)]
        nouns.above[synset] = [target for kind, target, *_ in pointers if kind in ("@", "@i")]
        if any(kind == "@i" for kind, *_ in pointers):
            nouns.instances.add(synset)
        marks = [target for kind, target, part, _ in pointers if kind == ";u" and part == "n"]
        nouns.marks[synset] = marks
        nouns.definitions[synset] = re.split(r';\s*"', gloss)[0].strip()
    return nouns


def usable(nouns: Nouns) -> set[str]:
    """The nouns that may be samples."""
    persons: set[str] = set()
    every: dict[str, list[str]] = defaultdict(list)
    for synset, above in nouns.above.items():
        for one in above:
            every[one].append(synset)
    waiting = [PERSON]
    while waiting:
        synset = waiting.pop()
        if synset not in persons:
            persons.add(synset)
            waiting += every[synset]
    left_out = persons | nouns.instances
    twice = Counter(nouns.definitions.values())
    return {
        synset
        for synset, text in nouns.definitions.items()
        if synset not in left_out
        and not MARKS & {nouns.words[mark] for mark in nouns.marks[synset]}
        and twice[text] == 1
        and not UNFIT.search(text)
    }


def chosen_classes(nouns: Nouns, fit: set[str]) -> list[str]:
    """The highest nodes with LOW to HIGH usable nouns, in the order of their numbers."""
    sizes: dict[str, int] = {}
    for synset in reversed([*nouns.walk(ROOT)]):
        sizes[synset] = (synset in fit) + sum(sizes[x] for x in nouns.below.get(synset, []))
    found, waiting = [], [ROOT]
    while waiting:
        synset = waiting.pop()
        if LOW <= sizes[synset] <= HIGH and synset != PERSON:
            found.append(synset)
        elif sizes[synset] > HIGH:
            waiting += nouns.below.get(synset, [])
    return sorted(found)


def tree(nouns: Nouns, classes: list[str]) -> Hierarchy:
    """The classes and all nodes above them."""
    pairs: dict[tuple[str, str], None] = {}
    for synset in classes:
        while nouns.above[synset]:
            parent = nouns.above[synset][0]
            pairs[nouns.name(parent), nouns.name(synset)] = None
            synset = parent
    return Hierarchy.from_pairs(list(pairs), [nouns.name(synset) for synset in classes])


def texts(nouns: Nouns, classes: list[str], fit: set[str]) -> dict[str, list[str]]:
    """LOW definitions of each class."""
    found = {}
    for synset in classes:
        own = sorted(set(nouns.walk(synset)) & fit)
        kept = [own[place * len(own) // LOW] for place in range(LOW)]
        found[nouns.name(synset)] = [nouns.definitions[one] for one in kept]
    return found


def main() -> None:
    """Write the tree and the texts into the package."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of Debian's wordnet-base: usr/share/wordnet")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the package")
    options = parser.parse_args()
    file = options.folder / "data.noun"
    if not file.is_file():
        sys.exit(f"{file} is missing; unpack Debian's wordnet-base and name its usr/share/wordnet")
    nouns = read_nouns(file)
    fit = usable(nouns)
    classes = chosen_classes(nouns, fit)
    content = {"source": SOURCE, "definitions": texts(nouns, classes, fit)}
    (options.out / "hierarchy" / "wordnet.json").write_text(
        tree(nouns, classes).to_json() + "\n", encoding="utf-8"
    )
    packed = gzip.compress(json.dumps(content, ensure_ascii=False).encode(), 9, mtime=0)
    (options.out / "train" / "wordnet.json.gz").write_bytes(packed)
    print(f"{len(classes)} classes, {LOW} definitions each, {len(packed) // 1000} kB")


if __name__ == "__main__":
    main()
