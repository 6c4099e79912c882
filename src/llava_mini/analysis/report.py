"""One page on which an analysis can be looked at: choose a layer and a sample, and see where attention went.

It holds all numbers and pictures and needs nothing beside it. What a data set or a model wrote is text there, and never
markup.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

_SIDE_PX = 336
_PAGE = Path(__file__).with_name("page.html")


def write_report(told: Mapping[str, Any], pictures: Sequence[Sequence[Image.Image]], path: Path) -> None:
    """Write the page.

    Args:
        told: the analysis as JSON has it: `profile`, and where they were made `removal` and `readings`.
        pictures: the frames of each sample, in order.
    """
    data = dict(told) | {"pictures": [[_data_uri(frame) for frame in frames] for frames in pictures]}
    page = _PAGE.read_text(encoding="utf-8").replace("{{title}}", escape(f"Where {told['profile']['model']} looks"))
    page = page.replace("{{data}}", json.dumps(data).replace("<", "\\u003c"))
    path.write_text(page, encoding="utf-8")


def _data_uri(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
