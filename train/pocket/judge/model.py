"""Train the embedded judge, a stock `LlavaForConditionalGeneration`: `python -m train.pocket.judge RUN`.

First its vision tower (SigLIP) learns to read the drawn world's traits. Then the whole model learns to
compare two images, to describe one, and to state what changes, in the words of `dsd.grids.recipes.CRITTERS`.
Held-out critters are not used.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from dsd.grids.recipes import ANSWER, CRITTERS, CRITTERS_EDIT, CRITTERS_RELIGHT
from dsd.pocket.scorer import CHOICES, NUMBERS
from dsd.pocket.words import SAME, caption, describe_context, describe_edit, describe_light
from train.pocket import latents as grids
from train.pocket import scenes
from train.pocket.judge import redrawn, words
from train.pocket.judge.pairs import sample_edit, sample_pair, sample_related, sample_task_pair, scene
from train.pocket.loop import TrainState, build_ema, descend, device, mixed_precision, ranks, step_seed
from train.pocket.presets import PRESETS, Preset, build_parser, locked
from train.pocket.scorer import reading_loss, roughen
from train.pocket.vae.model import TRAIN_SEED, to_tensor

PEAK, BETAS, SEED, PATCH = 1.5e-3, (0.9, 0.98), 41, 16
SIDE = 128  # side of its input image, in pixels
CONCLUDING = 2.0  # loss weight of the words from `differences:` on, which are learned late
COMPARE, DESCRIBE = 6, 7  # of every eight steps, six compare, one describes, one states what changes
TEMPLATE = (
    "{% for message in messages %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<image>{% else %} {{ item['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} answer:{% endif %}"
)


def build_tokenizer(*, tasks: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word, split at spaces; an unknown word is one `<unk>`."""
    vocab = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "answer:", *words.vocabulary()]
    vocab += words.task_vocabulary() if tasks else []
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocab)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left", model_max_length=512,
    )  # fmt: skip


def build_processor(*, tasks: bool = False) -> LlavaProcessor:
    size = {"height": SIDE, "width": SIDE}
    eyes = SiglipImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        image_processor=eyes, tokenizer=build_tokenizer(tasks=tasks), patch_size=PATCH,
        vision_feature_select_strategy="full", chat_template=TEMPLATE,
    )  # fmt: skip


def build(preset: Preset, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    width = preset.judge_width
    shared = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // 32}
    vision = SiglipVisionConfig(
        **shared, num_hidden_layers=preset.judge_eye_blocks, image_size=SIDE, patch_size=PATCH,
        vision_use_head=False,
    )  # fmt: skip
    text = LlamaConfig(
        **shared, num_hidden_layers=preset.judge_blocks, vocab_size=len(tokenizer),
        max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full", vision_feature_layer=-1, image_seq_length=(SIDE // PATCH) ** 2,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


class Eyes(nn.Module):
    """A SigLIP tower with heads that read traits from its mean output; the heads are discarded afterward."""

    def __init__(self, tower: nn.Module, width: int):
        super().__init__()
        self.tower = tower
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in CHOICES.items()})
        self.numbers = nn.Linear(width, NUMBERS)

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        features = self.tower(pixel_values=images).last_hidden_state.mean(1)  # [B, tokens, C] -> [B, C]
        return {name: head(features) for name, head in self.heads.items()}, self.numbers(features)


class Images:
    """Renders, and the same renders redrawn by VAE and teacher; row FAMILY f + p is panel p of family f.

    With `tasks` there are also renders of edits, whose rows are negative.
    """

    def __init__(self, run: Path, preset: Preset, *, tasks: bool = False):
        families = scenes.render(TRAIN_SEED, preset.rendered, preset.panel, run / "renders")
        vae = AutoencoderKL.from_pretrained(run / "vae")
        self.count = len(families)
        self.taught_count = min(preset.judge_taught, self.count)
        redrawn_count = min(preset.judge_redrawn, self.count)
        needed = max(self.taught_count, redrawn_count)  # fewer than the teacher's training draws
        latents = grids.load(vae, TRAIN_SEED, needed, preset.panel, run)
        self.plain = families.reshape(-1, *families.shape[2:])
        if tasks:
            edits = scenes.render(TRAIN_SEED, preset.rendered, preset.panel, run / "renders", kind="edits")
            self.edits = edits.reshape(-1, *edits.shape[2:])
        self.redrawn = redrawn.by_vae(run, preset.panel, latents, redrawn_count)
        self.taught, self.true = redrawn.by_teacher(run, preset, latents, self.taught_count)

    def pick(self, row: int, chance: float) -> np.ndarray:
        """Return the teacher's true image if `chance` < 0.5, the VAE's if it is < 0.75, or the render."""
        if row < 0:
            return self.edits[~row]
        if row < len(self.true) and self.true[row] and chance < 0.5:
            return self.taught[row]
        return self.redrawn[row] if row < len(self.redrawn) and chance < 0.75 else self.plain[row]

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        """Return images [B, 3, SIDE, SIDE] in -1..1, roughened."""
        chances = torch.rand(len(rows), generator=generator).tolist()
        images = to_tensor(np.stack([self.pick(*one) for one in zip(rows, chances, strict=True)]))
        if images.shape[-1] != SIDE:
            images = functional.interpolate(images, (SIDE, SIDE), mode="area")
        return roughen(images, generator)


def train_eyes(run: Path, preset: Preset, images: Images, tower: nn.Module) -> None:
    eyes = Eyes(tower, preset.judge_width).to(device())
    wanted = scenes.targets(scenes.all_scenes(TRAIN_SEED, range(images.count)), device())

    def loss(step: int) -> Tensor:
        generator = step_seed(SEED, step)
        rows = torch.randint(scenes.FAMILY * images.count, (preset.judge_eye_batch,), generator=generator)
        pixels = images.batch(rows.numpy(), generator).to(device())
        return reading_loss(*eyes(pixels), scenes.take(wanted, rows.to(device())))

    descend(build_state(run / "judge-eyes.pt", eyes, steps=preset.judge_eye_steps), loss, decay=0.4)


def build_state(path: Path, model: nn.Module, *, steps: int, minutes: float | None = None) -> TrainState:
    optimizer = torch.optim.AdamW(model.parameters(), PEAK, betas=BETAS, weight_decay=0.02, fused=True)
    return TrainState(path, model, optimizer=optimizer, ema=build_ema(model), steps=steps, minutes=minutes)


def sample_batch(count: int, batch: int, step: int) -> tuple[list[list[int]], str, list[str]]:
    """Return the rows of each sample's images, the question of this step, and the answers."""
    rng = np.random.default_rng((SEED, step, ranks()[0]))
    turn = step % 8
    if turn < COMPARE:
        pairs = [sample_pair(count, rng) for _ in range(batch)]
        answers = [words.comparison(scene(a)[0], scene(b)[0], rng) for a, b in pairs]
        return pairs, CRITTERS.compare, answers
    if turn < DESCRIBE:
        rows = rng.integers(scenes.FAMILY * count, size=2 * batch).tolist()
        return [[r] for r in rows], CRITTERS.captions["caption"], [caption(*scene(r)) for r in rows]
    families = rng.integers(count, size=batch)
    pairs = [[scenes.FAMILY * int(f) + int(p) for p in rng.permutation(scenes.SAME)[:2]] for f in families]
    answers = [f"{SAME}{describe_context(scene(second)[1])}" for _, second in pairs]
    return pairs, CRITTERS.captions["instruction"], answers


def sample_task_batch(count: int, batch: int, step: int) -> tuple[list[list[int]], str, list[str]]:
    """Return what `sample_batch` returns, of the questions of the tasks."""
    rng = np.random.default_rng((SEED, step, ranks()[0]))
    turn = step % 8
    if turn < COMPARE:
        pairs = [sample_task_pair(count, rng) for _ in range(batch)]
        answers = [words.whole_comparison(scene(a), scene(b), rng) for a, b in pairs]
        return pairs, CRITTERS_RELIGHT.compare, answers
    if turn < DESCRIBE:
        pairs = [sample_related("relit", count, rng) for _ in range(batch)]
        answers = [describe_light(scene(after)[1].light) for _, after in pairs]
        return pairs, CRITTERS_RELIGHT.captions["instruction"], answers
    pairs = [sample_edit(count, rng) for _ in range(batch)]
    answers = [describe_edit(scene(before)[1], scene(after)[1]) for before, after in pairs]
    return pairs, CRITTERS_EDIT.captions["instruction"], answers


def answer_loss(
    judge: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    images: Images,
    batch: int,
    step: int,
    *,
    tasks: bool = False,
) -> Tensor:
    # Every other round of eight steps uses only the families that the teacher has redrawn, which are fewer.
    count = images.taught_count if step // 8 % 2 else images.count
    sample = sample_task_batch if tasks and step // 16 % 2 else sample_batch  # in rounds of sixteen steps
    rows, question, answers = sample(count, batch, step)
    pixels = images.batch(np.concatenate(rows), step_seed(SEED, step)).to(device())
    prompt = f"{'<image>' * (len(rows[0]) * (SIDE // PATCH) ** 2)} {question} answer:"
    answers = [f"{prompt} {answer} </s>" for answer in answers]
    texts = tokenizer(answers, padding=True, padding_side="right", return_tensors="pt").to(device())
    inputs = {"input_ids": texts.input_ids, "attention_mask": texts.attention_mask}
    with mixed_precision():
        logits = judge(pixel_values=pixels, **inputs).logits.float()  # [B, T, words]
    weight = weights(texts.input_ids, len(tokenizer(prompt).input_ids), tokenizer) * texts.attention_mask
    error = functional.cross_entropy(logits[:, :-1].mT, texts.input_ids[:, 1:], reduction="none")
    return (error * weight[:, 1:]).sum() / weight[:, 1:].sum()


def weights(ids: Tensor, prompt_length: int, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Return weights [B, T]: 0 for the question, 1 for descriptions, `CONCLUDING` for conclusions."""
    concludes = (ids == tokenizer.convert_tokens_to_ids(f"{ANSWER[3]}:")).cumsum(1)  # from `differences:` on
    weight = 1.0 + (CONCLUDING - 1.0) * concludes
    weight[:, :prompt_length] = 0.0  # only the answer is learned
    return weight


def begin_with(
    judge: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Load an earlier judge's weights; match word embeddings by spelling and leave new words as they are."""
    earlier = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    old_ids = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    known = {word: i for word, i in tokenizer.get_vocab().items() if word in old_ids}
    old = earlier.get_input_embeddings().weight.detach()  # [words, C]
    new = judge.get_input_embeddings().weight.detach().clone()
    new[list(known.values())] = old[[old_ids[word] for word in known]]
    earlier.resize_token_embeddings(len(new))
    earlier.get_input_embeddings().weight.data = new
    earlier.tie_weights()
    judge.load_state_dict(earlier.state_dict())


def train(args: argparse.Namespace) -> LlavaForConditionalGeneration:
    """Return the averaged judge."""
    torch.manual_seed(SEED)
    preset = PRESETS[args.preset]
    images, tokenizer = Images(args.run, preset, tasks=args.tasks), build_tokenizer(tasks=args.tasks)
    judge = build(preset, tokenizer).to(device())
    if args.begin:
        begin_with(judge, tokenizer, args.begin)
    else:
        train_eyes(args.run, preset, images, judge.model.vision_tower)
    steps = args.steps or preset.judge_steps
    path = args.run / f"judge{'-tasks' * args.tasks}.pt"
    state = build_state(path, judge, steps=steps, minutes=args.minutes)
    inputs = (judge, tokenizer, images, preset.judge_batch)
    descend(state, lambda step: answer_loss(*inputs, step, tasks=args.tasks), decay=0.4)
    return state.ema.module


def main() -> None:
    parser = build_parser("judge", "Train the embedded judge, which compares and describes images.")
    parser.add_argument("--begin", type=Path, metavar="JUDGE", help="start from the judge in this folder")
    text = "also teach the questions of relight and edit, with more words at the end of its vocabulary"
    parser.add_argument("--tasks", action="store_true", help=text)
    args = parser.parse_args()
    with locked(args.run / "judge"):
        judge = train(args)
        if ranks()[0] == 0:
            judge.eval().half().save_pretrained(args.run / "judge")
            build_processor(tasks=args.tasks).save_pretrained(args.run / "judge")
            print(f"judge saved in {args.run / 'judge'}", flush=True)
