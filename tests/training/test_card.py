"""A trained model's card: what happened, in a form that the hub reads; and the upload."""

from huggingface_hub import ModelCard

from dsd.files.pairs import BadRow
from dsd.training import card as model_card
from dsd.training.loop import TrainResult
from dsd.training.options import TrainOptions
from dsd.training.student import Base

POCKET = Base("pocket", "/somewhere/teacher", "Apache-2.0")
FLUX = Base(
    "flux-dev", "black-forest-labs/FLUX.1-dev", "FLUX.1 [dev] Non-Commercial License", "https://a.page"
)
SCORES = {
    "identity": 0.61234,
    "identity_low": 0.58,
    "identity_high": 0.64,
    "identity_chance": 0.3,
    "copy": 0.1,
}


def trained(base: Base = POCKET, **options: object) -> TrainResult:
    settings = TrainOptions(**{"steps": 1000, "batch": 5, "accumulate": 2, **options})
    return TrainResult(base, settings, 4, "NVIDIA H100", rows=1234, skipped=3, seconds=7200)


def card(base: Base = POCKET, **options: object) -> str:
    facts = {"dataset": "run", "rows": "1,234", "generator": "pocket"}
    return model_card.card(
        trained(base, **options), "me/model", facts=facts, rates="the judge kept 12 %", scores=SCORES
    )


def test_it_says_what_the_training_was_and_what_it_cost():
    text = card(lr=3e-4)
    assert "1000 steps" not in text and "1,000 steps of 40 pairs, 40,000 samples of 1,234 rows" in text
    assert "3 rows could not be used" in text
    assert "2.00 hours on 4 x NVIDIA H100, 8.00 device hours" in text
    assert "| lr | 0.0003 |" in text and "the judge kept 12 %" in text and "| generator | pocket |" in text


def test_scores_stand_with_their_interval_and_ends():
    text = card()
    assert "| identity | 0.6123 | 0.58 | 0.64 | 0.3 |  |" in text and "| copy | 0.1 |" in text
    assert "identity_low" not in text


def test_its_example_draws_with_the_scales_of_the_model():
    scales = {"image_guidance": 2.5, "text_guidance": 1.0}
    text = card(Base("pocket", "/somewhere/teacher", "Apache-2.0", scales=scales))
    assert "image_guidance_scale=2.5,\n" in text and "text_guidance_scale=1,\n" in text


def test_only_settings_that_were_used_are_listed():
    assert "| rank | 128 |" in card() and "| targets | to_q to_k" in card()
    assert "| rank |" not in card(full=True) and "lora" not in card(full=True).lower()
    assert "lora/pytorch_lora_weights.safetensors" in card()


def test_the_hub_reads_its_head():
    data = ModelCard(card(FLUX)).data
    assert data.license == "other" and data.license_link == "https://a.page"
    assert data.base_model == "black-forest-labs/FLUX.1-dev"
    assert ModelCard(card()).data.license == "apache-2.0" and ModelCard(card()).data.base_model is None


def test_no_folder_of_this_machine_is_told():
    assert "/somewhere" not in card(Base("/home/me/teacher", "/somewhere/teacher", "Apache-2.0"))
    assert "/home/me" not in card(Base("/home/me/teacher", "/somewhere/teacher", "Apache-2.0"))


def test_images_are_shown_only_where_there_are_any():
    assert "![" not in card()
    shown = model_card.card(trained(), "x", facts={}, samples="samples.png", curves="curves.png")
    assert "(samples.png)" in shown and "(curves.png)" in shown and "## Scores" not in shown


def test_the_datasets_own_counts_are_taken_over(tmp_path):
    assert model_card.keep_rates(str(tmp_path)) is None
    (tmp_path / "dataset").mkdir()
    page = "# Pairs\n\n## How many\n\n10 drawn, 4 kept.\n\n| a | b |\n\n## License\n\nfree\n"
    (tmp_path / "dataset" / "README.md").write_text(page)
    for source in (tmp_path, tmp_path / "dataset"):
        assert model_card.keep_rates(str(source)) == "10 drawn, 4 kept.\n\n| a | b |"


def test_a_hub_datasets_counts_are_taken_from_the_card_above_its_files(tmp_path):
    (tmp_path / "README.md").write_text("## How many\n\n10 drawn, 4 kept.\n")
    for file in ("train-0.parquet", "data/train-0.parquet"):
        assert model_card.keep_rates("me/pairs", [str(tmp_path / file)]) == "10 drawn, 4 kept."
    assert model_card.keep_rates("me/pairs", [str(tmp_path / "a/b/train-0.parquet")]) is None
    assert model_card.keep_rates("me/pairs") is None


class Rows(list):
    """Rows as a dataset gives them: an error stands for a damaged one."""

    def __getitem__(self, index):
        if isinstance(row := super().__getitem__(index), BadRow):
            raise row
        return row

    def read_tasks(self) -> tuple[str, ...]:
        return getattr(self, "tasks", ("identity",))

    def row_files(self) -> list[str]:
        return ["run/train.parquet"] * len(self)


def test_facts_come_from_the_rows():
    rows = Rows([{"generator": "flux-dev", "generator_license": "free", "judge": None}])
    facts = model_card.dataset_facts("/home/me/run", rows)
    assert facts == {"dataset": "run", "rows": "1", "generator": "flux-dev", "generator's license": "free"}


def test_a_damaged_first_row_does_not_cost_the_card():
    facts = model_card.dataset_facts("run", Rows([BadRow("row 0 is damaged"), {"generator": "tiny"}]))
    assert facts == {"dataset": "run", "rows": "2", "generator": "tiny"}
    assert model_card.dataset_facts("run", Rows()) == {"dataset": "run", "rows": "0"}


def test_tasks_beside_identity_are_on_the_card():
    rows = Rows([{"generator": "tiny"}])
    rows.tasks = ("identity", "relight")
    assert model_card.dataset_facts("run", rows)["tasks"] == "identity, relight"


def test_states_and_cache_are_not_uploaded():
    assert "run/*" in model_card.NOT_UPLOADED
