"""A vision-language model on this machine: any `AutoModelForImageTextToText` with a chat template.

An answer depends only on its request, not on the rest of the batch (except for rounding, which can change
with the length of the padding). torchvision is optional; it is used if installed.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import torch
import transformers
from jinja2 import TemplateError
from torch import Tensor
from transformers import BatchFeature, LogitsProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import is_torchvision_available

from dsd.files import hub
from dsd.files.hub import LoadError
from dsd.files.missing import open_complete
from dsd.files.rgb import JUDGED, to_rgb
from dsd.model.checkpoint import open_device, torch_dtype, weights_hash
from dsd.model.presets import PRESETS, Preset
from dsd.vlm.base import LABEL, VLM, Request, VLMOptions

# Their standard processors require torchvision for videos, which are not used here.
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")


@dataclass(frozen=True, kw_only=True)
class LocalOptions(VLMOptions):
    """The options of a model on this machine."""

    batch: int | None = None  # questions at a time; None: the preset's, or 8
    device: str | None = None  # None: the best available
    dtype: torch.dtype | None = None  # None: the preset's, or bfloat16 on a GPU and float32 on the CPU


class LocalVLM(VLM):
    """A local model and its processor, as opened by `open_local`."""

    def __init__(self, name: str, model: PreTrainedModel, processor: ProcessorMixin, options: LocalOptions):
        self.name, self.model, self.processor = name, model.eval(), processor
        self.weights = weights_hash(model)
        self.batch, self.options = options.batch or 8, options
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # the answer must follow the question directly
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        self._generation = copy.deepcopy(model.generation_config)  # keeps repetition penalty and end tokens
        self._generation.update(do_sample=False, temperature=None, top_p=None, top_k=None, max_length=None)
        self._generation.update(max_new_tokens=options.max_tokens, pad_token_id=tokenizer.pad_token_id)
        # such as `<image>`, `<|im_end|>` and `</s>`
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        special.add(getattr(processor, "image_token", ""))
        self._special_tokens = sorted(token for token in special if len(token) > 2)
        self._has_labels = reads_labels(processor)

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """Yield answers in order, `batch` requests at a time."""
        requests = iter(requests)
        while batch := list(islice(requests, self.batch)):
            # A processor call needs images for all of its questions, or for none.
            for _, alike in groupby(batch, key=lambda request: bool(request.images)):
                yield from self._answer(list(alike))

    @torch.inference_mode()
    def _answer(self, requests: list[Request]) -> list[str]:
        inputs = self.prepare(requests)
        draws = SeededDraws(
            [request.seed for request in requests], self.options.temperature, self.model.device
        )
        draws = transformers.LogitsProcessorList([draws])
        tokens = self.model.generate(**inputs, generation_config=self._generation, logits_processor=draws)
        tokens = tokens[:, inputs["input_ids"].shape[1] :]  # [B, question + answer] -> [B, answer]
        as_written = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        answers = self.processor.tokenizer.batch_decode(tokens, **as_written)
        return [answer.strip() for answer in answers]

    def prepare(self, requests: list[Request]) -> BatchFeature:
        """Return the model inputs, padded on the left. All requests must have images, or none."""
        inputs = self.processor.apply_chat_template(
            [self._build_message(request) for request in requests], add_generation_prompt=True, tokenize=True,
            return_dict=True, return_tensors="pt", processor_kwargs={"padding": True},
        )  # fmt: skip
        return inputs.to(self.model.device, self.model.dtype)  # casts floats only

    def _build_message(self, request: Request) -> list[dict]:
        parts, has_labels = [], self._has_labels and len(request.images) > 1
        for number, image in enumerate(request.images, 1):
            parts += [{"type": "text", "text": LABEL.format(number)}] if has_labels else []
            parts += [{"type": "image", "image": to_rgb(image, JUDGED)}]
        question = request.question
        for token in self._special_tokens:  # broken up, so that a quoted `<image>` does not count as an image
            question = question.replace(token, f"{token[0]} {token[1:]}")
        return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def reads_labels(processor: ProcessorMixin) -> bool:
    """Return whether a model can be told which image is which.

    It must know the words of a label, and its chat template must keep them beside the images: that of LLaVA
    1.5 writes all images before all texts.
    """
    first, second = LABEL.format(1), LABEL.format(2)
    texts = [{"type": "text", "text": text} for text in (first, second, "?")]
    content = [texts[0], {"type": "image"}, texts[1], {"type": "image"}, texts[2]]
    try:
        written = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except TemplateError:  # it allows another order only
        return False
    image = written.partition(first)[2].partition(second)[0].strip()
    ids = processor.tokenizer(f"{first} {second}")["input_ids"]
    return bool(image) and processor.tokenizer.unk_token_id not in ids


class SeededDraws(LogitsProcessor):
    """A logits processor that samples rows with a seed and leaves the others greedy, in one batch.

    The maximum of `logits / temperature + Gumbel noise` is a sample from their softmax, so greedy decoding of
    the noisy row samples it. Each row has its own generator, so its answer is the same in any batch. With
    `do_sample=True` the whole batch shares one random stream, and answers depend on the batch.
    """

    def __init__(self, seeds: list[int | None], temperature: float, device: torch.device):
        rows = [(row, seed) for row, seed in enumerate(seeds) if seed is not None]
        self.generators = {row: torch.Generator(device).manual_seed(seed) for row, seed in rows}
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add noise to the next token's scores [B, vocabulary], in place."""
        for row, generator in self.generators.items():
            gumbel = -torch.empty_like(scores[row]).exponential_(generator=generator).log()
            scores[row] = scores[row] / self.temperature + gumbel
        return scores


class ImageProcessor(ProcessorMixin):
    """A processor for the Qwen-VL family without video support, which would require torchvision."""

    # Without this the model silently assigns text positions to image tokens.
    return_mm_token_type_ids = True
    # Repeats the placeholder once per image token, that is, per four patches.
    replace_image_token = transformers.Qwen2_5_VLProcessor.replace_image_token

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **_):
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        chat_template = chat_template or getattr(tokenizer, "chat_template", None)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def open_local(source: str, options: LocalOptions) -> LocalVLM:
    """Open the judge of a preset, or a folder or hub id; raise LoadError if that is no usable model."""
    preset = PRESETS.get(source) or Preset(name=source, base=source, weights=None, judge=source)
    folder = preset.judge or source
    if folder != source and not Path(folder).is_dir():
        raise LoadError(f"{source} has no judge in {folder}: run python -m train.pocket.judge to make one")
    hub.check_source(folder)
    device = open_device(options.device)
    dtype = options.dtype or torch_dtype(preset)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    with hub.explain_errors(source, [folder], value_errors=True):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = _open_model(source, folder, config, dtype)
        processor = _open_processor(source, folder, config)
    options = replace(options, batch=options.batch or preset.judge_batch)
    return LocalVLM(short_name(source), model.to(device), processor, options)


def _open_model(source: str, folder: str, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise LoadError(
            f"{source} is a {config.model_type}, not a vision-language model: choose one that takes images "
            "and text, such as Qwen/Qwen2.5-VL-7B-Instruct"
        )
    opener = transformers.AutoModelForImageTextToText
    return open_complete(opener, folder, config=config, dtype=dtype)


def _open_processor(source: str, folder: str, config: PreTrainedConfig) -> ProcessorMixin:
    by_hand = config.model_type in QWEN and not is_torchvision_available()
    opener = ImageProcessor if by_hand else transformers.AutoProcessor
    processor = opener.from_pretrained(folder, trust_remote_code=False)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise LoadError(f"{source} has no processor for images and text: choose another model")
    if getattr(processor, "chat_template", None) is None:
        raise LoadError(f"{source} has no chat template: choose a model that was tuned to answer questions")
    return processor


def short_name(source: str) -> str:
    """Return a model's name for the rows; for a folder only its last part, to keep the path private."""
    return Path(source).resolve().name if Path(source).is_dir() else source
