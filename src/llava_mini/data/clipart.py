"""Read the names of things out of the file names of the clip-art; doubtful files are left out."""

import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from llava_mini.data.names import plain_name


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FOLDERS = (
    "animals", "buildings", "computer/hardware", "containers", "education", "electronics", "food", "office",
    "plants", "people/clothing", "recreation", "science", "tools", "transportation", "unsorted",
)  # fmt: skip
_SKIPPED_FOLDERS = ("aiga-symbols", "roadsigns", "pantyhose", "cards", "religion", "dice", "chess", "art")
_MODIFIERS = _set(
    "a an the red green blue yellow pink orange brown simple stylized cartoon b w color colour angry"
    " crazy happy bored another perspectival"
)
"""Leading words that do not change what a thing is."""
_SPOILERS = _set(
    "core wedge slice half juice box head with and worm on in of ball bat cage muffin burger stand keys"
    " theory case symbol outline contour silhouet sign lane route station net pitch house home cap glove"
    " helmet racket card note pot plate dish form icon club puller peeler paste roller brush rental ride"
    " hair bitten star party trip logo set map art food horn rings corks tree branches cone toast chips"
    " dog from bus fry holder skier print wall border banner tennis building pepper mouse platter"
)
"""Words after a noun that make it another thing."""
_REJECTED = _set(
    "airplane bison_leif_lodahl_01 key_jordan_wiens_01 grapes_leif_lodahl_02"
    " bicicletta_cycle_archite_01 bucket_michael_moore_ bug_nicu_buculei_01 bus_opposite"
    " caterpillar cat_scrathing_post_benji_01 cattle church_building_01_01 compass_01 cornetto dolphin_01"
    " duck_yellow_ii_kurt_cagl_ flower-pot_01 flower-pot_02 giraffe_cichlid_01 home9 home10 home11 home13"
    " horse_1_konstantin_r._01 horse_1_rotkevich_konsat_01 magnifying_glass_teudimu_01"
    " moon_jasper_van_de_grond_01 mountain_dulcimer_terry_ rock_rpswb scale_01 school_hallway_gerald_g._01"
    " scissors_rpswb sedia_e_ombrelloni_archi_01 tacchino_di_natale telephone_lutte_incendi_01"
    " telephone_sauvetage_yves_01 telescope_01 toro_al_tramonto_archite_01 tower train tram tree_01"
    " trumpet_harmon_mute__ganson trumpet_herald__ganson trumpet_straight_mute_ganson turkey_on_platter_01"
    " wine war_drum_enrique_meza_c_01 war_drum_enrique_meza_c_02 what_s_up_doc_01"
)
"""Files seen to show something else than their names say."""
_REJECTED_WORDS = _set("bw mateya linda cichlid opposite length")
"""Black-and-white copies, signs, and two artists of price cards and faint sketches."""
_LARGEST_PIXELS = 16_000_000


def named_clipart(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of every picture that can be trusted, in the order of the paths."""
    seen: set[str] = set()
    for path in sorted(root.rglob("*.png")):
        place = path.relative_to(root).parent.as_posix()
        if not place.startswith(_FOLDERS) or any(part in _SKIPPED_FOLDERS for part in place.split("/")):
            continue
        name = clipart_name(path.stem)
        if name == "mouse" and place.startswith("computer"):
            name = "computer mouse"
        if name is not None and path.stem not in seen and _fits(path):
            seen.add(path.stem)
            yield name, path


def clipart_name(stem: str) -> str | None:
    """Read the thing out of a file name such as "blue_dragonfly_ghuul_ghu_01"; None when in doubt.

    The name is the longest known phrase at the start, after modifiers; the word after it must not change it.
    """
    words = [word for word in re.split(r"[_\s]+|(?<=[a-z])(?=\d)|\d+", stem.lower()) if word]
    if stem.lower() in _REJECTED or _REJECTED_WORDS.intersection(words):
        return None
    while len(words) > 1 and words[0] in _MODIFIERS and plain_name(" ".join(words[:2])) is None:
        words = words[1:]
    for length in range(min(4, len(words)), 0, -1):
        name = plain_name(" ".join(words[:length]))
        if name is not None:
            after = words[length : length + 1]
            doubtful = any(word in _SPOILERS or plain_name(word) not in (None, name) for word in after)
            return None if doubtful else name
    return None


def _fits(path: Path) -> bool:
    """Tell from the header whether a picture can be transparent and is not huge."""
    with Image.open(path) as opened:
        transparent = opened.mode in ("RGBA", "LA") or "transparency" in opened.info
        return transparent and opened.width * opened.height <= _LARGEST_PIXELS
