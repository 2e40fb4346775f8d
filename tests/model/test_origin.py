"""What a LoRA file says of itself is read by type: strangers write such files, too."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dsd.model.origin import METADATA, lora_facts


def test_facts_of_a_lora_are_read_and_other_files_have_none(tmp_path):
    file, facts = tmp_path / "lora.safetensors", {"license": "x", "frame": [32, 48], "text_tokens": 16}
    save_file({"a": torch.zeros(1)}, file, {METADATA: json.dumps(facts | {"tasks": ["identity"]})})
    assert lora_facts(file) == facts | {"tasks": ["identity"]}
    save_file({"a": torch.zeros(1)}, file)
    assert lora_facts(file) == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "is \\[\\], not an object"),
        ("{", "is not JSON"),
        ('{"license": 3}', "license is 3, not a text or null"),
        ('{"frame": ["32"]}', "frame is \\['32'\\], not a list or null"),
        ('{"text_tokens": "many"}', "text_tokens is 'many', not a whole number or null"),
    ],
)
def test_a_lora_with_other_facts_is_refused_with_file_and_field(tmp_path, text, named):
    save_file({"a": torch.zeros(1)}, tmp_path / "lora.safetensors", {METADATA: text})
    with pytest.raises(ValueError, match=f"the metadata of .*lora.safetensors.* {named}"):
        lora_facts(tmp_path / "lora.safetensors")
