"""A vision-language model on this machine: any `AutoModelForImageTextToText` with a chat template.

Answers depend on the request alone, not on what else is in the batch (but for the last digits of sums,
which the length of the padding may move). torchvision is not needed; where it is installed it is used.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
)
from transformers.utils import is_torchvision_available

from dsd.files import hub
from dsd.files.hub import LoadError
from dsd.model.checkpoint import ASSETS, best_device, weights_hash
from dsd.vlm.base import VLM, Request, check_options

POCKET = ASSETS / "judge"
# Their stock processors want torchvision, for videos, which are never asked about here.
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")


class LocalVLM(VLM):
    """A model and its processor; `open_local` finds both."""

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        batch: int = 8,
        max_tokens: int = 512,
        temperature: float = 0.7,
    ):
        """`max_tokens` bounds an answer; `temperature` acts on requests with a seed only."""
        check_options(max_tokens=max_tokens, temperature=temperature, batch=batch)
        self.name, self.model, self.processor = name, model.eval(), processor
        self.weights = weights_hash(model)
        self.batch, self.temperature = batch, temperature
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # answers continue the question: nothing may stand between the two
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._plan = _plan(model, max_tokens, tokenizer.pad_token_id)
        self._marks = _marks(processor)

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """Answers in order, `batch` requests at a time."""
        requests = iter(requests)
        while batch := list(islice(requests, self.batch)):
            # A processor takes pictures for all questions of a call, or for none.
            for _, alike in groupby(batch, key=lambda request: bool(request.images)):
                yield from self._answer(list(alike))

    @torch.inference_mode()
    def _answer(self, requests: list[Request]) -> list[str]:
        inputs = self.inputs(requests)
        draws = SeededDraws([request.seed for request in requests], self.temperature, self.model.device)
        tokens = self.model.generate(
            **inputs, generation_config=self._plan, logits_processor=LogitsProcessorList([draws])
        )
        written = tokens[:, inputs["input_ids"].shape[1] :]  # [B, question + answer] -> [B, answer]
        answers = self.processor.tokenizer.batch_decode(
            written, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [answer.strip() for answer in answers]

    def inputs(self, requests: list[Request]) -> BatchFeature:
        """What the model reads, padded on the left. Either all requests have pictures, or none has."""
        inputs = self.processor.apply_chat_template(
            [self._message(request) for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return inputs.to(self.model.device, self.model.dtype)  # casts floats only

    def _message(self, request: Request) -> list[dict]:
        pictures = [{"type": "image", "image": image.convert("RGB")} for image in request.images]
        text = {"type": "text", "text": self._as_text(request.question)}
        return [{"role": "user", "content": [*pictures, text]}]

    def _as_text(self, question: str) -> str:
        """A question may quote anything; a picture's placeholder in a caption must not count as a picture."""
        for mark in self._marks:
            question = question.replace(mark, f"{mark[0]} {mark[1:]}")
        return question


class SeededDraws(LogitsProcessor):
    """Rows with a seed are drawn, the others stay greedy, in one batch.

    The largest of `logits / temperature + Gumbel noise` is a draw from their softmax, so greedy decoding of
    the noisy row samples it. Each row has a generator of its own: its answer is the same in any batch, which
    one stream of random numbers for the whole batch, as `do_sample=True` has, would not give.
    """

    def __init__(self, seeds: list[int | None], temperature: float, device: torch.device):
        self.temperature = temperature
        self.generators = {
            row: torch.Generator(device).manual_seed(seed)
            for row, seed in enumerate(seeds)
            if seed is not None
        }

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, vocabulary] of the next token."""
        for row, generator in self.generators.items():
            gumbel = -torch.empty_like(scores[row]).exponential_(generator=generator).log()
            scores[row] = scores[row] / self.temperature + gumbel
        return scores


class PictureProcessor(ProcessorMixin):
    """The processors of the Qwen-VL family without their half for videos, and so without torchvision."""

    # Left out, nothing fails: the model quietly takes pictures for text when it counts positions.
    return_mm_token_type_ids = True
    # One placeholder becomes as many as there are patches, four to a token.
    replace_image_token = Qwen2_5_VLProcessor.replace_image_token

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **_):
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(
            image_processor,
            tokenizer,
            chat_template=chat_template or getattr(tokenizer, "chat_template", None),
        )


def open_local(
    source: str,
    *,
    batch: int | None = None,
    max_tokens: int = 512,
    temperature: float = 0.7,
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> LocalVLM:
    """Open `pocket`, a folder or a hub id. `device` None takes the best there is.

    `dtype` None is bfloat16 on a GPU and float32 on the CPU, and float32 anywhere for pocket, which is
    small. `batch` None is 32 for pocket and 8 for others. LoadError for what is missing, gated, or blind.
    """
    pocket = source == "pocket"
    if pocket and not POCKET.is_dir():
        raise LoadError(f"pocket's judge is not in {POCKET}: python -m train.pocket.judge makes one")
    place = str(POCKET) if pocket else source
    hub.check_source(place)
    device = device or best_device()
    dtype = dtype or (torch.float32 if pocket or device == "cpu" else torch.bfloat16)
    with explained(source):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        model = _open_model(source, place, config, dtype)
        processor = _open_processor(source, place, config)
    model = placed(model, device)
    batch = (32 if pocket else 8) if batch is None else batch
    return LocalVLM(
        short_name(source), model, processor, batch=batch, max_tokens=max_tokens, temperature=temperature
    )


def _open_model(source: str, place: str, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise LoadError(
            f"{source} is a {config.model_type}, not a vision-language model: choose one that takes pictures "
            "and text, such as Qwen/Qwen2.5-VL-7B-Instruct"
        )
    model, loading = AutoModelForImageTextToText.from_pretrained(
        place, config=config, dtype=dtype, output_loading_info=True, **hub.SAFE
    )
    missing = sorted(loading["missing_keys"])
    if missing:  # they would be filled with random numbers, and the answers too
        raise LoadError(f"{source} lacks {len(missing)} of its weights, {missing[0]} for one: get it again")
    return model


def _open_processor(source: str, place: str, config: PreTrainedConfig) -> ProcessorMixin:
    by_hand = config.model_type in QWEN and not is_torchvision_available()
    opener = PictureProcessor if by_hand else AutoProcessor
    processor = opener.from_pretrained(place, trust_remote_code=False)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise LoadError(f"{source} comes without a processor for pictures and text")
    if getattr(processor, "chat_template", None) is None:
        raise LoadError(f"{source} has no chat template: choose a model that was tuned to answer questions")
    return processor


def _marks(processor: ProcessorMixin) -> list[str]:
    """What a tokenizer reads as something else than words: `<image>`, `<|im_end|>`, `</s>`."""
    special = {token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(mark for mark in {*special, getattr(processor, "image_token", "")} if len(mark) > 2)


def short_name(source: str) -> str:
    """What to call a model in the rows: a folder goes by its last name, its path is nobody's business."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def placed(model: nn.Module, device: str) -> nn.Module:
    """On that device; LoadError if there is no such device."""
    try:
        return model.to(device)
    except (AssertionError, RuntimeError) as error:  # torch's two ways of saying that there is no such device
        if "out of memory" in str(error).lower():
            raise
        raise LoadError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _plan(model: PreTrainedModel, max_tokens: int, pad_token_id: int) -> GenerationConfig:
    """The model's own settings (its repetition penalty, its end tokens), but greedy: draws are ours."""
    plan = copy.deepcopy(model.generation_config)
    plan.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    plan.update(max_length=None, max_new_tokens=max_tokens, pad_token_id=pad_token_id)
    return plan


@contextmanager
def explained(source: str) -> Iterator[None]:
    """What the hub, the disk or the libraries refuse, as a LoadError."""
    with hub.explained(source, [source]):
        try:
            yield
        except LoadError:
            raise
        except (ValueError, ImportError, SafetensorError) as error:
            if "trust_remote_code" in str(error):
                raise  # `hub.explained` has the words for it
            hint = "; pip install torchvision" if "torchvision" in str(error).lower() else ""
            raise LoadError(f"cannot open {source}: {error}{hint}") from error
