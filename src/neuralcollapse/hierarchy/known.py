"""Hierarchies of well-known data sets, as tables of levels or as a file of the package."""

from importlib import resources

# The 20 superclasses of CIFAR-100 in the order of its coarse labels, with their classes
# (Krizhevsky 2009), and the three levels above them of the five-level tree that the literature on
# the severity of mistakes uses; those levels have numbers for names.
CIFAR100_SUPERCLASSES = """
0 0 6 aquatic_mammals: beaver dolphin otter seal whale
0 0 6 fish: aquarium_fish flatfish ray shark trout
0 3 5 flowers: orchid poppy rose sunflower tulip
1 1 0 food_containers: bottle bowl can cup plate
0 3 5 fruit_and_vegetables: apple mushroom orange pear sweet_pepper
1 1 0 household_electrical_devices: clock keyboard lamp telephone television
1 1 0 household_furniture: bed chair couch table wardrobe
0 0 4 insects: bee beetle butterfly caterpillar cockroach
0 0 3 large_carnivores: bear leopard lion tiger wolf
1 1 1 large_man-made_outdoor_things: bridge castle house road skyscraper
1 2 2 large_natural_outdoor_scenes: cloud forest mountain plain sea
0 0 3 large_omnivores_and_herbivores: camel cattle chimpanzee elephant kangaroo
0 0 3 medium_mammals: fox porcupine possum raccoon skunk
0 0 4 non-insect_invertebrates: crab lobster snail spider worm
0 0 3 people: baby boy girl man woman
0 0 4 reptiles: crocodile dinosaur lizard snake turtle
0 0 3 small_mammals: hamster mouse rabbit shrew squirrel
0 3 5 trees: maple_tree oak_tree palm_tree pine_tree willow_tree
1 1 7 vehicles_1: bicycle bus motorcycle pickup_truck train
1 1 7 vehicles_2: lawn_mower rocket streetcar tank tractor
"""

# In the order of the labels. Clothes or goods, the kind, the class: after the trees of hierarchical
# networks for these images, of which there are several in the literature.
FASHION_MNIST = (
    ("clothes", "tops", "T-shirt/top"),
    ("clothes", "bottoms", "Trouser"),
    ("clothes", "tops", "Pullover"),
    ("clothes", "dresses", "Dress"),
    ("clothes", "outers", "Coat"),
    ("goods", "shoes", "Sandal"),
    ("clothes", "tops", "Shirt"),
    ("goods", "shoes", "Sneaker"),
    ("goods", "accessories", "Bag"),
    ("goods", "shoes", "Ankle boot"),
)


def cifar100_levels() -> list[list[str]]:
    """(100, 5), levels 1 to 3, superclass and class, in the order of the labels."""
    rows: list[list[str]] = []
    for line in CIFAR100_SUPERCLASSES.strip().splitlines():
        above, _, classes = line.partition(":")
        one, two, three, superclass = above.split()
        path = [f"level 1: {one}", f"level 2: {two}", f"level 3: {three}", superclass]
        rows += [[*path, name] for name in classes.split()]
    # CIFAR-100 numbers its classes by the alphabet.
    return sorted(rows, key=lambda row: row[-1])


def wordnet_json() -> bytes:
    """The tree of the data set `wordnet`, as `Hierarchy.from_json` reads it."""
    return resources.files("neuralcollapse.hierarchy").joinpath("wordnet.json").read_bytes()
