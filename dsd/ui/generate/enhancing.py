"""The "Describe my image for me" box: a description of the reference to put before the prompt.

The visitor can edit it first. The box is folded until a visitor opens it. The model that describes the image
is the judge; it runs on this machine unless the user who started the app named a server.
"""

import html
from urllib.parse import urlsplit

import gradio as gr
import spaces
from PIL import Image

from dsd.curation import captions
from dsd.files import intake
from dsd.ui import uploads
from dsd.ui.loaded import Loaded
from dsd.ui.messages import explained, notice, problem, sentence

GPU_SECONDS = 20  # an allowance for one line of text
NOBODY = (
    "For this the app needs a vision-language model that knows such images: start it with --judge and a "
    "name, such as Qwen/Qwen2.5-VL-3B-Instruct."
)
HINT = "Change it as you like, then use it. Nothing has been drawn yet."


class Enhancing:
    """Event handlers for one describer."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.describer = loaded, loaded.describer

        @spaces.GPU(duration=GPU_SECONDS)
        def ask(image: Image.Image, prompt: str) -> str:
            try:
                return captions.enhance(loaded.describer(), image, prompt, loaded.recipe, count=self._count)
            except (ValueError, RuntimeError) as error:  # other types would arrive without a message
                raise gr.Error(html.escape(explained(error)), print_exception=False) from error

        self._ask = ask

    def _count(self, text: str) -> int:
        return len(self.loaded.pipe.tokenizer(text, verbose=False).input_ids)

    @property
    def trouble(self) -> str | None:
        """Return a sentence on why no model can describe images, or None if one can."""
        return NOBODY if self.describer is None else self.describer.missing

    def about(self) -> str:
        """Return HTML that tells the visitor, before the click, what happens and where."""
        if self.trouble:
            return notice(sentence(self.trouble))
        host = urlsplit(self.describer.name).hostname or "" if "://" in self.describer.name else None
        where = (
            "A model on this machine looks at your image; nothing is sent anywhere."
            if host is None
            else f"Your image is sent to {host}, whose model looks at it."
        )
        return (
            f'<p class="dsd-quiet">{html.escape(where)} It puts the subject into words, before your own. '
            "You can change them before they are used.</p>"
        )

    def describe(self, image: str | None, prompt: str) -> tuple[gr.Textbox, gr.Button, str]:
        """Return (suggestion, the button that uses it, remark)."""
        try:
            if not image:
                raise ValueError("there is no image yet: upload one, paste one or pick an example")
            if (prompt or "").strip():
                intake.check_prompt(prompt)
            reference = uploads.open_upload(image)
            self.describer()  # here, because the ZeroGPU process that asks it could not keep it open
            text = self._ask(reference, prompt or "")
        except Exception as error:  # the page must always get an answer
            return gr.skip(), gr.skip(), problem(explained(error))
        if not text:
            return gr.skip(), gr.skip(), problem("The model had nothing to say about this image.")
        return gr.Textbox(text, visible=True), gr.Button(visible=True), f'<p class="dsd-quiet">{HINT}</p>'
