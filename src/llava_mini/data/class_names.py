"""Plain names for the 1000 ImageNet classes that the embedded tower's classifier knows.

The list comes from the npm package `@tensorflow-models/mobilenet` (Apache-2.0), whose order is ImageNet's own.
"""

import re
from pathlib import Path

from llava_mini.errors import DataError

_FILE = Path("tensorflow-models-mobilenet") / "package" / "dist" / "imagenet_classes.js"
_DOGS, _CATS = range(151, 269), range(281, 286)
# Names whose last word misleads, and names that people do not use.
_PLAIN = {
    "cock": "rooster",
    "hot dog": "hot dog",
    "hotdog": "hot dog",
    "sea lion": "sea lion",
    "ram": "sheep",
    "bighorn": "sheep",
    "ox": "cow",
    "sorrel": "horse",
    "airliner": "airplane",
    "warplane": "airplane",
    "container ship": "ship",
    "liner": "ship",
    "hen": "chicken",
    "notebook": "laptop",
    "timber wolf": "wolf",
    "hartebeest": "antelope",
    "impala": "antelope",
    "gazelle": "antelope",
    "beer glass": "glass",
    "coffee mug": "mug",
    "espresso": "coffee",
    "granny smith": "apple",
    "bolete": "mushroom",
    "jack-o'-lantern": "jack-o-lantern",
    "agaric": "mushroom",
    "convertible": "car",
    "beach wagon": "car",
    "cab": "taxi",
    "minivan": "car",
    "sports car": "car",
    "passenger car": "train",
    "bullet train": "train",
    "electric locomotive": "train",
    "steam locomotive": "train",
    "school bus": "bus",
    "minibus": "bus",
    "fire engine": "fire truck",
    "garbage truck": "truck",
    "pickup": "truck",
    "tow truck": "truck",
    "mountain bike": "bicycle",
    "bicycle-built-for-two": "bicycle",
    "moped": "motorcycle",
    "motor scooter": "scooter",
    "african chameleon": "chameleon",
    "water bottle": "bottle",
    "pop bottle": "bottle",
    "beer bottle": "bottle",
    "wine bottle": "bottle",
    "macaw": "parrot",
    "african grey": "parrot",
    "lorikeet": "parrot",
    "sulphur-crested cockatoo": "cockatoo",
    "drake": "duck",
    "black swan": "swan",
    "king penguin": "penguin",
    "monarch": "butterfly",
    "tusker": "elephant",
    "cellular telephone": "phone",
    "dial telephone": "telephone",
    "pay-phone": "telephone",
    "screen": "screen",
    "desktop computer": "computer",
    "computer keyboard": "keyboard",
    "analog clock": "clock",
    "wall clock": "clock",
    "digital clock": "clock",
    "acoustic guitar": "guitar",
    "electric guitar": "guitar",
    "grand piano": "piano",
    "upright": "piano",
    "running shoe": "shoe",
    "loafer": "shoe",
    "rocking chair": "chair",
    "folding chair": "chair",
    "studio couch": "sofa",
    "dining table": "table",
    "brown bear": "bear",
    "american black bear": "bear",
    "ice bear": "polar bear",
    "three-toed sloth": "sloth",
    "great white shark": "shark",
    "tiger shark": "shark",
    "electric ray": "ray",
    "great grey owl": "owl",
    "bald eagle": "eagle",
    "common iguana": "iguana",
    "african crocodile": "crocodile",
    "american alligator": "alligator",
    "loggerhead": "turtle",
    "leatherback turtle": "turtle",
    "mud turtle": "turtle",
    "terrapin": "turtle",
    "box turtle": "turtle",
    "daisy": "daisy",
    "arabian camel": "camel",
    "water buffalo": "buffalo",
}
# Last words that name a longer class well enough.
_HEADS = frozenset(
    "frog snake spider monkey fox wolf bear elephant crab lobster beetle butterfly lizard bus truck ship boat bridge"
    " hat gun bag bottle dog cat owl ball house tower fence chair lamp clock guitar drum piano horn knife squirrel"
    " rabbit shark penguin seal whale panda goose crane stork pelican cabbage squash corn wagon cart".split()
)


def load_class_names(sources: Path) -> list[str]:
    """Return one plain English name a class, in class order: every breed of dog is "dog".

    Raises:
        DataError: when the package has not been fetched.
    """
    path = sources / _FILE
    if not path.is_file():
        raise DataError(f"the ImageNet class names are missing ({_FILE}); fetch them with 'llava-mini data fetch'")
    quoted = r"""(\d+):\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")"""  # an apostrophe within is written \'
    found = re.findall(quoted, path.read_text(encoding="utf-8"))
    names = {int(number): (single or double).replace("\\", "") for number, single, double in found}
    if sorted(names) != list(range(1000)):
        raise DataError(f"{_FILE} lists {len(names)} classes; 1000 were expected")
    return [_plain(number, names[number]) for number in range(1000)]


def _plain(number: int, synonyms: str) -> str:
    if number in _DOGS:
        return "dog"
    if number in _CATS:
        return "cat"
    options = [option.strip().lower() for option in synonyms.split(",")]
    for option in options:
        if option in _PLAIN:
            return _PLAIN[option]
    last = options[0].split()[-1]
    return last if last in _HEADS else options[0]
