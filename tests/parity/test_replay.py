"""The released program's recorded numbers come out of our model, with both kinds of attention."""

import json
import os
from pathlib import Path

import pytest

from tests.parity.replay import passes, replay

GOLDEN = Path(os.environ.get("LLAVA_MINI_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
CASES = json.loads((GOLDEN / "index.json").read_text())["cases"] if (GOLDEN / "index.json").is_file() else {}


@pytest.mark.skipif(not CASES, reason="the recorded numbers are not here: set LLAVA_MINI_GOLDEN to their folder")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["kind"] in ("inference", "training")])
def test_a_recorded_case_comes_out_within_tolerance(name: str, attention: str) -> None:
    differences = replay(GOLDEN, name, CASES[name], attention)
    assert passes(differences), differences
