"""The "Describe my image for me" box: the prompt with the looks of the subject in the reference.

The visitor can edit it first. The model that describes the image is the judge; it runs on this machine unless
the user who started the app named a server.
"""

from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd.curation.enhancement import enhance
from dsd.files import intake
from dsd.ui import uploads
from dsd.ui.messages import convert_errors, explain, notice, problem, quiet, sentence
from dsd.ui.models import Loaded

GPU_SECONDS = 20  # an allowance for one line of text
NO_DESCRIBER = (
    "For this the app needs a vision-language model that knows such images: start it with --judge and a "
    "name, such as Qwen/Qwen2.5-VL-3B-Instruct."
)
HINT = "Change it as you like, then use it. Nothing has been drawn yet."
HERE = "A model on this machine looks at your image; nothing is sent anywhere."
EFFECT = "It adds the subject's looks to your words. You can change the result before it is used."


class Enhancing:
    def __init__(self, loaded: Loaded) -> None:
        self.describer = loaded.describer

        def count(text: str) -> int:
            return len(loaded.pipe.tokenizer(text, verbose=False).input_ids)

        @spaces.GPU(duration=GPU_SECONDS)
        def ask(image: Image.Image, prompt: str) -> str:
            with convert_errors():
                judge, known = loaded.describer(), {"count": count, "warn": loaded.warn}
                return enhance(judge, image, prompt, loaded.recipe, **known)

        self._ask = ask

    @property
    def trouble(self) -> str | None:
        """Return a sentence on why no model can describe images, or None if one can."""
        return NO_DESCRIBER if self.describer is None else self.describer.missing

    def about(self) -> str:
        """Return HTML that tells the visitor, before the click, what happens and where."""
        if self.trouble:
            return notice(sentence(self.trouble))
        host = self.describer.host
        where = f"Your image is sent to {host}, whose model looks at it." if host else HERE
        return quiet(f"{where} {EFFECT}")

    def describe(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a suggested prompt and the button that uses it, or a remark on what went wrong."""
        image, prompt = values["image"], values["prompt"] or ""
        try:
            if not image:
                raise ValueError("there is no image yet: upload one, paste one or pick an example")
            if prompt.strip():
                intake.check_prompt(prompt)
            reference = uploads.open_upload(image)
            self.describer()  # here, because the ZeroGPU process that asks it could not keep it open
            text = self._ask(reference, prompt)
            if not text:
                raise ValueError("the model had nothing to say about this image")
        except Exception as error:  # the page must always get an answer
            return {"describe_remark": problem(explain(error))}
        return {
            "suggestion": gr.Textbox(text, visible=True),
            "use_suggestion": gr.Button(visible=True),
            "describe_remark": quiet(HINT),
        }
