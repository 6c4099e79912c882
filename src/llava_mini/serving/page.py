"""A page in front of the API: drop pictures and videos, ask, and see what the one token looked at.

Knows HTTP and Gradio, and no model. Whatever Gradio brings is Gradio's: history, retry, undo, edit, stop, examples.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio.utils import get_upload_folder
from openai import OpenAIError
from starlette.middleware import Middleware

from llava_mini.errors import InputError, LlavaMiniError
from llava_mini.serving.asking import Api, Settings, Turn, failed, files_of, messages_of, question_of, text_of
from llava_mini.serving.guard import refuse
from llava_mini.serving.panel import draw, say

EXAMPLES = (
    ("What shape is the red object?", "shapes.png"),
    ("What color are the stars?", "counting.png"),
    ("What color is the circle?", "video.mp4"),
)
_NAMES = frozenset({"127.0.0.1", "localhost"})
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)
"""What the browser may load: what this page brings. An answer cannot make it fetch anything from elsewhere."""
_SEND = "() => document.querySelector('[data-testid=submit-button]').click()"
_CSS = Path(__file__).with_name("page.css")
_NOTHING = "Ask about a picture or a video; what the model looked at, and what that cost, is shown here."
_LOOKING = "Looking up what the model looked at, and what that cost …"


def build_page(api: Api, settings: Settings = Settings()) -> gr.Blocks:  # noqa: B008, a constant
    """Return the page of a server; `settings` is what its sliders stand at."""
    with gr.Blocks(title="llava-mini", analytics_enabled=False, fill_width=True, fill_height=True) as page:
        panel = gr.HTML(say(_NOTHING), render=False, elem_id="panel")
        camera = gr.Image(sources=["webcam"], type="filepath", show_label=False, render=False, elem_id="camera")
        gr.Markdown(
            "**llava-mini** · ask about pictures and videos, one vision token a picture or frame", elem_id="title"
        )
        with gr.Row(elem_id="all"):
            with gr.Column(scale=9, min_width=380):
                chat = _chat(api, settings)
            with gr.Column(scale=4, min_width=340, elem_id="side"):
                panel.render()
                with gr.Accordion("Webcam", open=False):
                    camera.render()

        async def shown(place: int | None, kept: Sequence[Sequence[Turn]] | None) -> AsyncIterator[str]:
            turns = kept[place] if kept and place is not None else ()
            if any(files_of(turn) for turn in turns):
                yield say(_LOOKING)
            yield await explain(api, turns)

        # a conversation is kept when it has changed, whatever changed it: an answer, a stop, a retry, an edit
        for changed, place in (
            (chat.saved_conversations.change, chat.conversation_id),
            (chat.chat_history_dataset.click, chat.chat_history_dataset),
        ):
            changed(
                shown, [place, chat.saved_conversations], panel, trigger_mode="always_last", api_visibility="private"
            )
        chat.new_chat_button.click(lambda: say(_NOTHING), None, panel, api_visibility="private")
        chat.chatbot.edit(
            _edited, chat.chatbot_state, [chat.chatbot, chat.chatbot_state, chat.textbox], api_visibility="private"
        ).success(None, js=_SEND)
        camera.input(_add_photo, [chat.textbox, camera], [chat.textbox, camera], api_visibility="private")
    return page


def open_page(page: gr.Blocks, kept: socket) -> str:
    """Serve a page on loopback, from threads, at the port that a socket kept free; gives its address."""
    port = kept.getsockname()[1]
    kept.close()
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        inline=False,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        max_file_size="48mb",
        theme=_theme(),
        css_paths=_CSS,
        app_kwargs={"middleware": [Middleware(OwnOrigin)]},
    )
    return address


async def explain(api: Api, turns: Sequence[Turn]) -> str:
    """Return the panel of the last answer."""
    if not turns or turns[-1]["role"] != "assistant" or failed(turns[-1]):
        return say(_NOTHING)
    if not any(files_of(turn) for turn in turns):
        return say("No picture was shown, so there is nothing to look at.")
    try:
        check_files(turns)
        *messages, answer = messages_of(turns)
        told = await api.explanation(messages, answer["content"])
    except (OpenAIError, LlavaMiniError) as error:
        return say(api.words(error))
    return draw(told, (turns[-1].get("metadata") or {}).get("duration"), followed=len(messages) > 1)


def check_files(turns: Iterable[Turn]) -> None:
    """Look at the files of a conversation that the browser kept.

    Raises:
        InputError: when one of them was not dropped on this page.
    """
    own = Path(get_upload_folder()).resolve()
    if not all(Path(path).resolve().is_relative_to(own) for turn in turns for path in files_of(turn)):
        raise InputError("that conversation shows files that were not dropped here")


class OwnOrigin:
    """Lets in who calls this machine by its own names, and from this page alone; tells browsers to load no other's."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1").lower() for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if host.partition(":")[0] not in _NAMES or (origin is not None and urlsplit(origin).netloc != host):
            await refuse(send, 403, "this page is for this machine's own browser; open http://127.0.0.1")
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self._app(scope, receive, guarded)


class _Chat(gr.ChatInterface):
    """Gradio's chat, with two things mended."""

    def _generate_chat_title(self, conversation: Any) -> str:
        """Call a conversation by its first question."""
        return next(filter(None, map(text_of, conversation)), "Conversation")[:60]

    def _load_conversation(self, index: int, conversations: Any) -> Any:
        """Show a conversation that the browser kept, with no other files than those that were dropped here."""
        try:
            check_files(conversations[index])
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return super()._load_conversation(index, conversations)


def _chat(api: Api, settings: Settings) -> gr.ChatInterface:
    """Return the conversation's part of the page."""

    async def answer(asked: Any, turns: Any, *values: Any) -> AsyncIterator[gr.ChatMessage]:
        try:
            async for written in api.answer(messages_of([*turns, question_of(asked)]), Settings(*values)):
                yield gr.ChatMessage(written.text, metadata={"duration": round(written.first_word_s, 3)})
        except (OpenAIError, LlavaMiniError) as error:
            yield gr.ChatMessage(api.words(error), metadata={"title": "Not answered"})

    examples = Path(__file__).parents[1] / "examples"
    return _Chat(
        answer,
        multimodal=True,
        save_history=True,
        analytics_enabled=False,
        concurrency_limit=16,
        delete_cache=(3600, 86400),
        api_visibility="private",
        flagging_mode="never",
        chatbot=gr.Chatbot(
            show_label=False,
            render_markdown=False,
            editable="user",
            feedback_options=None,
            buttons=["copy"],
            group_consecutive_messages=False,  # of a group with a file, the words could not be edited
            height="max(320px, calc(100vh - 250px))",
            elem_id="conversation",
        ),
        textbox=gr.MultimodalTextbox(
            file_types=["image", "video"],
            file_count="multiple",
            placeholder="Ask, and drop pictures or videos here",
            stop_btn=True,
            autofocus=True,
        ),
        additional_inputs=[
            gr.Slider(1, 2048, settings.max_tokens, step=1, label="Longest answer, tokens", render=False),
            gr.Slider(
                0, 2, settings.temperature, step=0.05, label="Temperature (0: always the likeliest)", render=False
            ),
            gr.Slider(0.05, 1, settings.top_p, step=0.05, label="Top p", render=False),
            gr.Number(settings.seed, precision=0, label="Seed", render=False),
        ],
        additional_inputs_accordion=gr.Accordion("Settings", open=False, render=False),
        examples=[[{"text": text, "files": [str(examples / file)]}, None, None, None, None] for text, file in EXAMPLES],
        run_examples_on_click=False,
        example_labels=[text for text, _ in EXAMPLES],
    )


def _edited(turns: Sequence[Turn], edited: gr.EditData) -> tuple[Any, Any, Any]:
    """Go back to a question with other words; Gradio's own way would lose its files."""
    place = edited.index if isinstance(edited.index, int) else edited.index[0]
    return turns[:place], turns[:place], {"text": edited.value, "files": files_of(turns[place])}


def _add_photo(message: Mapping[str, Any] | None, photo: str | None) -> tuple[Any, None]:
    """Put what the camera saw beside what was typed."""
    message = message or {"text": "", "files": []}
    files = [*(message.get("files") or ()), *([photo] if photo else [])]
    return {"text": message.get("text") or "", "files": files}, None


def _theme() -> gr.Theme:
    """Return a theme of fonts that every machine has."""
    fonts = ["system-ui", "sans-serif"]
    return gr.themes.Default(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])
