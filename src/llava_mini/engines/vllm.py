"""The language model in vLLM: it is sent our embeddings, and gives text.

Wire format: vLLM's `/v1/completions` with `prompt_embeds`, the base64 of a tensor `(L, d)` as `torch.save` writes it
(documentation of vLLM 0.11.0, "Prompt Embedding Inputs"; there it is read with weights_only=True). It is written here
because vLLM takes nothing else; none is ever read.  L tokens · d width.
"""

import base64
import io
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import requests
import torch
from torch import Tensor

from llava_mini.engines.apart import served_name
from llava_mini.errors import EngineError, InputError
from llava_mini.model.elsewhere import LanguageModelElsewhere

KEY_VARIABLE = "LLAVA_MINI_ENGINE_KEY"
"""Environment variable with the bearer key that the servers ask for."""
_AWAY = (502, 503, 504)
"""Statuses of a proxy whose server is away, or of a server that is not ready."""


class Said(NamedTuple):
    """A piece of an answer."""

    text: str
    tokens: int
    """Tokens of the answer so far: pieces, until vLLM has counted at the end."""
    ending: str | None = None
    """"stop" or "length" with the last piece."""
    choice: int = 0
    """Which of several answers it belongs to."""


class VllmServers:
    """One or more servers of the same language model; requests go round among those that answer."""

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        *,
        endings: Sequence[int] = (),
        key: str | None = None,
        timeout_s: float = 300.0,
        connect_s: float = 5.0,
        rest_s: float = 30.0,
    ) -> None:
        """Remember the addresses; nothing is sent.

        Args:
            urls: addresses up to and with "/v1".
            name: what the language model is served as; another one refuses it.
            endings: tokens that end an answer.
            key: bearer key.
            timeout_s: longest wait for the next piece, or for a whole answer.
            connect_s: longest wait for a connection.
            rest_s: how long a server that was away is not asked, unless all are.

        Raises:
            InputError: for what is no address.
        """
        wrong = next((url for url in urls if not re.fullmatch(r"https?://[^/\s,@]+(/[^\s,?#]*)?", url)), None)
        if wrong is not None or not urls:
            raise InputError(f"--engine names the address {wrong!r}; it must be like http://127.0.0.1:8001/v1")
        self.urls, self.name = [url.rstrip("/") for url in urls], name
        self._endings, self._key, self._timeout = list(endings), key, (connect_s, timeout_s)
        self._rest_s = rest_s
        self._turn = itertools.count()
        self._away_until: dict[str, float] = {}
        self._busy = threading.Lock()

    @staticmethod
    def take_over(model: Any, engine: str) -> "VllmServers":
        """Let servers run a LLaVA-Mini's language model; its own layers and head are let go.

        Args:
            engine: one address, or several with commas between them.

        Raises:
            InputError: for what is no address.
        """
        name = model.config.language_model_elsewhere or served_name(model)
        endings = model.generation_config.eos_token_id
        endings = [] if endings is None else [endings] if isinstance(endings, int) else list(endings)
        urls = [url.strip() for url in engine.split(",") if url.strip()]
        servers = VllmServers(urls, name, endings=endings, key=os.environ.get(KEY_VARIABLE))
        model.model.language_model = LanguageModelElsewhere(model.config.text, model.get_input_embeddings())
        model.lm_head = torch.nn.Identity()
        return servers

    def stream(
        self,
        embeds: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        choices: int = 1,
        at_once: bool = False,
    ) -> Generator[Said]:
        """Answer `(L, d)` embeddings piece by piece; whoever stops reading stops the server's work.

        Args:
            embeds: what the language model reads.
            choices: answers to the same question.
            at_once: get each answer in one piece: less to read where nobody watches.

        Raises:
            EngineError: when no server answers, or they refuse all of us: a key, another model, no embeddings.
            InputError: when this question is refused.
        """
        asked = {
            "model": self.name,
            "prompt_embeds": encode(embeds),
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "stop": list(stop),
            "stop_token_ids": self._endings,
            "n": choices,
        }
        if not at_once:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        if seed is not None:
            asked["seed"] = seed
        url, answer = self._post(asked)
        with closing(answer):
            yield from self._pieces(url, answer, choices, at_once=at_once)

    def away(self) -> list[str]:
        """Return the addresses at which no server answers now."""
        return [url for url in self.urls if not self._is_there(url)]

    def _is_there(self, url: str) -> bool:
        try:
            with closing(self._send("GET", f"{url}/models", wait_s=self._timeout[0])) as answer:
                return answer.status_code not in _AWAY
        except requests.RequestException:
            return False

    def _pieces(self, url: str, answer: requests.Response, choices: int, *, at_once: bool) -> Iterator[Said]:
        counted = [0] * choices
        endings: dict[int, str] = {}
        try:
            for event in [answer.json()] if at_once else _events(answer):
                if "error" in event:
                    raise EngineError(f"the server at {url} broke off: {_reason(event)}")
                for one in event["choices"]:
                    counted[int(one.get("index", 0))] += bool(one["text"])
                usage = event.get("usage") or {}
                if choices == 1 and isinstance(usage.get("completion_tokens"), int):
                    counted[0] = usage["completion_tokens"]
                for one in event["choices"]:
                    index, ending = int(one.get("index", 0)), one.get("finish_reason")
                    if ending is not None:
                        endings[index] = str(ending)
                    if one["text"]:
                        yield Said(one["text"], counted[index], None, index)
        except requests.RequestException as error:
            raise EngineError(f"the server at {url} broke off ({type(error).__name__}); ask again") from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineError(f"the server at {url} gives no completions as vLLM does") from error
        if len(endings) < choices:
            raise EngineError(f"the server at {url} broke off before the answer ended; ask again")
        for index in range(choices):
            yield Said("", counted[index], "length" if endings[index] == "length" else "stop", index)

    def _post(self, asked: dict[str, Any]) -> tuple[str, requests.Response]:
        """Ask the servers in turn until one answers."""
        problem = ""
        for url in self._order():
            try:
                answer = self._send("POST", f"{url}/completions", asked)
            except requests.ReadTimeout as error:  # it works on it: another one would do the work twice
                raise EngineError(f"the server at {url} did not answer within {self._timeout[1]:g} s") from error
            except requests.RequestException as error:
                problem = f"{url} cannot be reached ({type(error).__name__})"
            else:
                if answer.status_code == 200:
                    self._away_until.pop(url, None)
                    return url, answer
                with closing(answer):
                    if answer.status_code not in _AWAY:
                        raise self._refusal(url, answer)
                problem = f"{url} is not ready (status {answer.status_code})"
            self._away_until[url] = time.monotonic() + self._rest_s
        count = f"none of {len(self.urls)} servers answers: " if len(self.urls) > 1 else ""
        raise EngineError(f"{count}{problem}; is vLLM running there?")

    def _order(self) -> list[str]:
        """Return the addresses from the next one on; those that were away a moment ago stand last."""
        with self._busy:
            first = next(self._turn) % len(self.urls)
        round_ = self.urls[first:] + self.urls[:first]
        now = time.monotonic()
        return sorted(round_, key=lambda url: self._away_until.get(url, 0.0) > now)

    def _send(self, method: str, url: str, body: Any = None, wait_s: float | None = None) -> requests.Response:
        head = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no other key stands between
            timeout = self._timeout if wait_s is None else (wait_s, wait_s)
            return session.request(
                method, url, json=body, headers=head, timeout=timeout, stream=True, allow_redirects=False
            )

    def _refusal(self, url: str, answer: requests.Response) -> EngineError | InputError:
        """Say what a refusal means and what would be right."""
        status = answer.status_code
        try:
            reason = _reason(answer.json())
        except (ValueError, requests.RequestException):
            reason = "no reason given"
        if "enable-prompt-embeds" in reason:
            return EngineError(f"the server at {url} takes no embeddings; start vLLM with --enable-prompt-embeds")
        if status in (401, 403):
            return EngineError(f"the server at {url} refused the key (status {status}); set {KEY_VARIABLE}")
        if status == 404:
            return EngineError(
                f"the server at {url} serves {self._served(url)}, not {self.name}; start vLLM as "
                "'llava-mini export --llm' says"
            )
        if "hidden_size" in reason:
            return EngineError(f"the server at {url} runs a model of another width: {reason}")
        if status in (400, 422):
            return InputError(f"the server at {url} refused the question: {reason}")
        return EngineError(f"the server at {url} failed (status {status}): {reason}")

    def _served(self, url: str) -> str:
        try:
            with closing(self._send("GET", f"{url}/models")) as answer:
                return ", ".join(str(one["id"]) for one in answer.json()["data"])[:200] or "no model"
        except (ValueError, KeyError, TypeError, requests.RequestException):
            return "something else"


def encode(embeds: Tensor) -> str:
    """Write `(L, d)` embeddings as vLLM reads them: `torch.save`, then base64."""
    file = io.BytesIO()
    torch.save(embeds.detach().cpu().clone(memory_format=torch.contiguous_format), file)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _events(answer: requests.Response) -> Iterator[dict[str, Any]]:
    """Read server-sent events up to the last one."""
    for line in answer.iter_lines(chunk_size=None):
        if line == b"data: [DONE]":
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def _reason(body: Any) -> str:
    """Find the reason in an error as OpenAI or older vLLM words it, in one line."""
    found = body.get("error", body) if isinstance(body, dict) else body
    text = found.get("message", found) if isinstance(found, dict) else found
    return " ".join(str(text).split())[:200]
