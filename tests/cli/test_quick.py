"""What makes a verb start sooner changes nothing that is found or freed afterwards."""

import gc
import subprocess
import sys

from llava_mini.cli.quick import collect_later

PROGRAM = """
import sys
sys.argv = ["llava-mini"]
from llava_mini.cli.quick import scan_once
from transformers.utils import import_utils
before = import_utils.define_import_structure
scan_once()
import transformers.models
assert import_utils.define_import_structure is before
once = vars(transformers.models)
again = import_utils._LazyModule(
    "transformers.models", transformers.models.__file__, before(transformers.models.__file__),
    module_spec=transformers.models.__spec__,
)
assert once.keys() == vars(again).keys()
assert [name for name in once if once[name] != getattr(again, name)] == []
assert transformers.models.llama.modeling_llama.LlamaModel is transformers.LlamaModel
"""


def test_a_single_scan_finds_the_models_that_transformers_finds() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)


def test_garbage_is_collected_again_after_loading() -> None:
    assert gc.isenabled()
    with collect_later():
        assert not gc.isenabled()
        with collect_later():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.unfreeze()


def test_whoever_lets_the_collector_rest_is_left_alone() -> None:
    gc.disable()
    try:
        with collect_later():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
