"""The language model in llama.cpp: small and quick on a CPU; what it reads are our embeddings.

The library is ggml-org/llama.cpp through its binding llama-cpp-python (extra `llama-cpp`).
B rows · L tokens · V vocabulary · d width.
"""

import ctypes
import hashlib
import importlib
import logging
import tempfile
import weakref
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

from llava_mini.engines import gguf_file
from llava_mini.engines.gguf_file import read_digest, weights_digest, write_gguf
from llava_mini.errors import InputError, ModelError
from llava_mini.folders import cache_folder

Quantization = Literal["F16", "Q8_0", "Q4_K_M"]
_FILE_TYPES = {"Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "Q4_K_M": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}
_log = logging.getLogger(__name__)
_AT_ONCE = 512
"""Tokens that are read at a time, and for which there is room at first."""


def export_gguf(model: Any, path: Path, quantization: str = "Q8_0") -> None:
    """Write a model's language model for llama.cpp.

    Raises:
        InputError: for an unknown quantization.
        ModelError: when llama-cpp-python, which quantises, is not installed, or writing fails.
    """
    if quantization not in get_args(Quantization):
        raise InputError(f"--quantization is {quantization!r}; it must be one of {', '.join(get_args(Quantization))}")
    if quantization == "F16":
        write_gguf(model, path)
        return
    library = _library()
    half = path.with_suffix(".f16.tmp")
    try:
        write_gguf(model, half)
        parameters = library.llama_model_quantize_default_params()
        parameters.ftype = getattr(library, _FILE_TYPES[quantization])
        parameters.nthread = torch.get_num_threads()
        if library.llama_model_quantize(str(half).encode(), str(path).encode(), parameters):
            raise ModelError(f"llama.cpp could not write {path}")
    finally:
        half.unlink(missing_ok=True)


def kept_gguf(model: Any) -> Path:
    """Return a model's language model in Q8_0 from the cache folder, written there on the first call.

    Raises:
        ModelError: as `export_gguf`, and when the folder cannot be written.
    """
    known = hashlib.sha256(Path(gguf_file.__file__).read_bytes() + model.config.text.to_json_string().encode())
    known.update(weights_digest(model).encode())
    file = cache_folder() / f"llama.cpp-{known.hexdigest()[:16]}.gguf"
    if not file.is_file():
        _library()
        _log.warning("writing the language model for llama.cpp, this once: %s", file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="llama.cpp-", dir=file.parent) as scratch:
                made = Path(scratch) / file.name
                export_gguf(model, made)
                made.replace(file)
        except OSError as error:
            raise ModelError(f"{file} cannot be written: {error}; 'llava-mini export' writes it elsewhere") from error
    return file


class LlamaCppCache(Cache):
    """What llama.cpp keeps of B rows; each row's real tokens, padding left out."""

    is_compileable = False

    def __init__(self, model: "LlamaCppLanguageModel") -> None:
        super().__init__(layers=[])
        self._model = model
        self._context: Any = None
        self._room = 0
        """Tokens of all rows that the context has room for; twice as many when they are needed."""
        self._free: Any = None
        self._seen = 0
        """Tokens so far, padding included."""
        self._kept: list[int] = []
        """Tokens so far of each row, padding left out."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the tokens so far."""
        return self._seen

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of every row; the number is negative, as in transformers."""
        library, gone = self._model.library, -tokens_to_remove
        self._seen -= gone
        for row, kept in enumerate(self._kept):
            self._kept[row] = max(0, kept - gone)
            library.llama_memory_seq_rm(library.llama_get_memory(self._context), row, self._kept[row], -1)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Refuse: beams are not searched here."""
        raise InputError("llama.cpp answers without beams; set num_beams to 1")

    def read(self, embeds: Tensor, present: Tensor) -> Tensor:
        """Read `(B, L, d)` further tokens, those that are `present` `(B, L)`; return the last one's logits `(B, V)`."""
        logits = torch.zeros(len(embeds), self._model.vocabulary)
        tokens = [(row, int(place)) for row in range(len(embeds)) for place in present[row].nonzero()]
        if sum(self._kept) + len(tokens) > self._model.context:  # llama.cpp would end the process
            raise InputError(
                f"llama.cpp has room for {self._model.context} tokens in all, and {sum(self._kept) + len(tokens)} were "
                "to be read; ask fewer questions at once, or shorter ones"
            )
        self._make_room(len(embeds), sum(self._kept) + len(tokens))
        self._seen += embeds.shape[1]
        last = {row: index for index, (row, _) in enumerate(tokens)}
        at_once = min(_AT_ONCE, self._model.context)
        for start in range(0, len(tokens), at_once):
            part = tokens[start : start + at_once]
            wanted = {last[row] - start: row for row in {row for row, _ in part} if last[row] < start + len(part)}
            self._read(embeds, part, wanted, logits)
        return logits

    def _read(self, embeds: Tensor, part: list[tuple[int, int]], wanted: dict[int, int], logits: Tensor) -> None:
        library, batch = self._model.library, self._model.batch
        rows, places = zip(*part, strict=True)
        chosen = embeds[list(rows), list(places)].detach().float().cpu().contiguous()
        ctypes.memmove(batch.embd, chosen.data_ptr(), chosen.nbytes)
        batch.n_tokens = len(part)
        for index, row in enumerate(rows):
            batch.pos[index] = self._kept[row]
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row
            batch.logits[index] = index in wanted
            self._kept[row] += 1
        if library.llama_decode(self._context, batch):
            raise ModelError(f"llama.cpp could not read {len(part)} tokens")
        for index, row in wanted.items():
            found = library.llama_get_logits_ith(self._context, index)
            ctypes.memmove(logits[row].data_ptr(), found, logits[row].nbytes)

    def _make_room(self, rows: int, tokens: int) -> None:
        """Open a context for so many tokens in all where there is none, and carry over what a smaller one holds."""
        if self._context is not None and tokens <= self._room:
            return
        library = self._model.library
        kept = [self._take_out(row) for row, count in enumerate(self._kept) if count]
        room = min(self._model.context, max(_AT_ONCE, 1 << (tokens - 1).bit_length()))
        parameters = library.llama_context_default_params()
        parameters.n_ctx = room
        parameters.n_batch = parameters.n_ubatch = _AT_ONCE
        parameters.n_seq_max = rows
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = torch.get_num_threads()
        context = library.llama_init_from_model(self._model.weights, parameters)
        if not context:
            raise ModelError(f"llama.cpp has no memory for {rows} rows of {room} tokens in all")
        if self._free is not None:
            self._free()
        self._context, self._room = context, room
        self._free = weakref.finalize(self, library.llama_free, context)
        self._kept = self._kept or [0] * rows
        for row, state in kept:
            if not library.llama_state_seq_set_data(context, state, len(state), row):
                raise ModelError(f"llama.cpp could not carry over what it kept of row {row}")

    def _take_out(self, row: int) -> tuple[int, Any]:
        """Return a row and what the context keeps of it."""
        library = self._model.library
        size = library.llama_state_seq_get_size(self._context, row)
        state = (ctypes.c_uint8 * size)()
        library.llama_state_seq_get_data(self._context, state, size, row)
        return row, state


class LlamaCppLanguageModel(nn.Module):
    """Stands where the language model stood; its "last hidden state" are the logits of the last token.

    So it answers and does nothing else: no loss, no attention to look at, no beams.
    """

    def __init__(self, path: Path, embeddings: nn.Module, vocabulary: int, context: int) -> None:
        super().__init__()
        self.embed_tokens = embeddings
        self.file_bytes = path.stat().st_size
        self.vocabulary, self.context = vocabulary, context
        self.library = library = _library()
        library.llama_backend_init()
        parameters = library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.weights = library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.weights:
            raise ModelError(f"llama.cpp could not load {path}; delete it, or write it anew with 'llava-mini export'")
        weakref.finalize(self, library.llama_model_free, self.weights)
        width = int(getattr(embeddings, "weight").shape[1])  # noqa: B009
        self.batch = library.llama_batch_init(_AT_ONCE, width, 1)
        weakref.finalize(self, library.llama_batch_free, self.batch)

    @staticmethod
    def take_over(model: Any, path: Path) -> None:
        """Put the language model of a file into a LLaVA-Mini; its own layers are let go.

        Raises:
            ModelError: when the file was written from other weights.
        """
        if read_digest(path) != weights_digest(model):
            raise ModelError(f"{path} is not this model's language model; write it with 'llava-mini export'")
        text = model.config.text
        embeddings = model.get_input_embeddings()
        model.model.language_model = LlamaCppLanguageModel(
            path, embeddings, text.vocab_size, text.max_position_embeddings
        )
        model.lm_head = nn.Identity()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings, which stay in PyTorch: pre-fusion reads them."""
        return self.embed_tokens

    def new_cache(self) -> LlamaCppCache:
        """Return room for a batch of conversations."""
        return LlamaCppCache(self)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Read `(B, L, d)` more tokens; the answer's `last_hidden_state` is `(B, 1, V)`."""
        cache = past_key_values if isinstance(past_key_values, LlamaCppCache) else self.new_cache()
        present = torch.ones(inputs_embeds.shape[:2], dtype=torch.bool)
        if attention_mask is not None:
            present = attention_mask[:, -inputs_embeds.shape[1] :].bool().cpu()
        logits = cache.read(inputs_embeds, present).to(inputs_embeds)
        return BaseModelOutputWithPast(last_hidden_state=logits[:, None], past_key_values=cache)


def _library() -> Any:
    """Import the binding, and keep llama.cpp from writing what it does."""
    try:
        library: Any = importlib.import_module("llama_cpp")
    except ImportError as error:
        raise ModelError("llama.cpp is not installed; 'pip install llava-mini[llama-cpp]' builds it") from error
    library.llama_log_set(_QUIET, None)
    return library


_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
"""Kept as long as the library may call it."""
