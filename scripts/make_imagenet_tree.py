"""Make `examples/data/imagenet-tree.json`: the 1000 classes of ImageNet-1k in WordNet's noun tree.

    pip download --no-deps timm
    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    python scripts/make_imagenet_tree.py timm-*.whl wordnet/usr/share/wordnet

The classes stand in the order of the labels, which `imagenet_synsets.txt` of timm tells (or any
file of synset ids, one a line). Above each are all nodes of WordNet 3.0 on the way to the root, by
the first of the hypernyms, so that a tree is made of the graph; nodes with a single child are kept.
A node is named by its first word and its synset, as "tench n01440764".

The same input gives the same file, byte for byte.
"""

import argparse
import sys
import zipfile
from pathlib import Path

from make_wordnet import Nouns, read_nouns, tree

SYNSETS = "imagenet_synsets.txt"
OUT = Path(__file__).parents[1] / "examples" / "data" / "imagenet-tree.json"


def synset_ids(file: Path) -> list[str]:
    """The ids in a file, or in the file of timm's wheel that has those of ImageNet-1k."""
    if file.suffix != ".whl":
        return file.read_text(encoding="utf-8").split()
    with zipfile.ZipFile(file) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(f"/{SYNSETS}")]
        if not names:
            raise ValueError(f"{file} holds no {SYNSETS}; it must be a wheel of timm")
        return wheel.read(names[0]).decode().split()


def noun_numbers(ids: list[str], nouns: Nouns) -> list[str]:
    """The ids as numbers of `data.noun`, all of them there and below some other."""
    numbers = [one.removeprefix("n") for one in ids]
    for number in numbers:
        if not nouns.above.get(number):
            raise ValueError(f"data.noun has no n{number} with a hypernym; it must be WordNet 3.0")
    return numbers


def main() -> None:
    """Write the tree beside the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("synsets", type=Path, help=f"timm's wheel, or its {SYNSETS}")
    parser.add_argument("folder", type=Path, help="of Debian's wordnet-base: usr/share/wordnet")
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    options = parser.parse_args()
    try:
        nouns = read_nouns(options.folder / "data.noun")
        made = tree(nouns, noun_numbers(synset_ids(options.synsets), nouns))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    text = made.to_json() + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"{made.num_classes} classes, {made.num_nodes} nodes, {len(text.encode()) // 1000} kB")


if __name__ == "__main__":
    main()
