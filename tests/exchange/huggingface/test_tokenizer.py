"""transformers' tokenizer of a release: the same ids of texts and conversations, the same mask, one <|bos|>."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jinja2
import pytest

from aquarat_core.config import TokenizerConfig
from aquarat_core.conversation import Message, user_message
from aquarat_core.exchange.huggingface import write_huggingface
from aquarat_core.text.chat import render, render_prompt
from aquarat_core.text.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerError, train_tokenizer
from tests.exchange.huggingface.examples import PLAIN, conversations, load_tokenizer
from tests.factories import random_model, tokenizer

ASK: Message = {"role": "user", "content": "What is 12 + 7?"}
SAY: Message = {"role": "assistant", "content": "It is 19."}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("release")
    write_huggingface(folder, random_model(tokenizer().vocab_size, **PLAIN), tokenizer(), 32)
    return load_tokenizer(folder, False)


def rendered(theirs: Any, messages: object, **how: Any) -> list[int]:
    return theirs.apply_chat_template(messages, tokenize=True, return_dict=True, **how)["input_ids"]


def test_conversations_have_our_ids_and_mask(theirs: Any) -> None:
    asked = conversations(200)
    assert any(m.get("parts") for messages in asked for m in messages)
    for messages in asked:
        out = theirs.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        assert (out["input_ids"], out["assistant_masks"]) == render(tokenizer(), messages)
        prompt = rendered(theirs, messages[:-1], add_generation_prompt=True)
        assert prompt == render_prompt(tokenizer(), messages[:-1])


def test_a_text_may_be_given_in_parts(theirs: Any) -> None:
    def parts(*texts: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": text} for text in texts]

    system = {"role": "system", "content": parts("Be ", "brief.")}
    ask, say = ASK | {"content": parts("What is", " 12 + 7?")}, SAY | {"content": parts("It is", " 19.")}
    expected, _ = render(tokenizer(), [{"role": "system", "content": "Be brief."}, ASK, SAY])
    assert rendered(theirs, [system, ask, say]) == expected


def test_calls_may_have_nanochats_names(theirs: Any) -> None:
    content = [
        {"type": "text", "text": "So "},
        {"type": "python", "text": "12+7"},
        {"type": "python_output", "text": "19"},
    ]
    text = "<|assistant_start|>So <|python_start|>12+7<|python_end|><|output_start|>19<|output_end|><|assistant_end|>"
    ids = rendered(theirs, [ASK, SAY | {"content": content}])
    assert tokenizer().decode(ids).endswith(text)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_a_message_that_spells_a_special_token_is_refused(theirs: Any, name: str) -> None:
    split = [{"type": "text", "text": f"x {name[:4]}"}, {"type": "text", "text": name[4:]}]
    for content in (f"x {name} y", split):
        for messages in ([ASK | {"content": content}, SAY], [ASK, SAY | {"content": content}]):
            with pytest.raises(jinja2.TemplateError, match="would become a special token"):
                theirs.apply_chat_template(messages)
    with pytest.raises(jinja2.TemplateError, match="would become a special token"):
        theirs.apply_chat_template([{"role": "system", "content": name}, ASK, SAY])


@pytest.mark.parametrize(
    ("messages", "how", "error"),
    [
        ([SAY], {}, "in turn"),
        ([ASK, ASK], {}, "in turn"),
        ([ASK, SAY, SAY], {}, "in turn"),
        ([ASK, {"role": "system", "content": "x"}, SAY], {}, "in turn"),
        ([{"role": "system", "content": "x"}], {}, "in turn"),
        ([{"role": "system", "content": "x"}, SAY], {}, "in turn"),
        ([{"role": "tool", "content": "x"}], {}, "in turn"),
        ([ASK, SAY], {"add_generation_prompt": True}, "nothing to reply to"),
        ([ASK, SAY], {"tools": [{"type": "function", "function": {"name": "f"}}]}, "takes no descriptions of tools"),
        ([{"role": "user"}], {}, "must be a text or a list of parts"),
        ([{"role": "user", "content": 7}], {}, "must be a text or a list of parts"),
        ([ASK, {"role": "assistant"}], {}, "must be a text or a list of parts"),
        ([ASK | {"content": [{"type": "image"}]}], {}, "part of type image"),
        ([ASK, SAY | {"content": [{"type": "image"}]}], {}, "part of type image"),
        ([ASK | {"parts": [{"type": "call", "text": "1"}]}, SAY], {}, "only an assistant calls tools"),
        ([ASK, SAY | {"parts": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], {}, "in succession"),
        ([ASK, SAY | {"tool_calls": [{"function": {"name": "f"}}]}], {}, "tool_calls are not understood"),
    ],
)
def test_what_our_format_does_not_have_is_refused(
    theirs: Any, messages: list[dict[str, Any]], how: dict[str, Any], error: str
) -> None:
    with pytest.raises(jinja2.TemplateError, match=error):
        theirs.apply_chat_template(messages, **how)


def mixed(n: int) -> str:
    rng = random.Random(7)
    parts = [
        "don't",
        " THEY'LL",
        " 1234567",
        "\n\n",
        "  ",
        "\r\n",
        " x",
        "é漢🙂",
        "(a+b)",
        "\t",
        " the",
        "...\n",
        "\u00a0z",
    ]
    return "".join(rng.choices([*parts, " What is 12 + 7?", "<|", "|>", "\u2028", "\x00", "ﬁ"], k=n))


def test_texts_have_our_ids_after_one_bos(theirs: Any) -> None:
    bos = tokenizer().special("<|bos|>")
    for seed, n in enumerate((0, 1, 5, 50, 5_000)):
        text = mixed(n + seed)
        ids = theirs(text)["input_ids"]
        assert ids == [bos, *tokenizer().encode(text)]
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids[1:]
        assert theirs.decode(ids, skip_special_tokens=True) == text
    assert theirs("a", "b")["input_ids"].count(bos) == 2


def test_it_loads_beside_a_model_with_code_too(tmp_path: Path) -> None:
    write_huggingface(tmp_path, random_model(tokenizer().vocab_size, **PLAIN, embedding_taps=1), tokenizer(), 32)
    theirs = load_tokenizer(tmp_path, True)
    assert rendered(theirs, [ASK, SAY]) == render(tokenizer(), [ASK, SAY])[0]


def test_its_settings(theirs: Any) -> None:
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == (
        "<|bos|>",
        "<|assistant_end|>",
        "<|assistant_end|>",
    )
    assert theirs.model_max_length == 256 and theirs.padding_side == "left"
    batch = theirs(["12 + 7", "1"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"} and batch["attention_mask"][1][0] == 0


def test_generation_ends_with_a_message_or_a_document(tmp_path: Path) -> None:
    import transformers

    write_huggingface(tmp_path, random_model(tokenizer().vocab_size, **PLAIN), tokenizer(), 77)
    found = transformers.GenerationConfig.from_pretrained(tmp_path)
    end, bos = tokenizer().special("<|assistant_end|>"), tokenizer().special("<|bos|>")
    assert (found.eos_token_id, found.pad_token_id, found.bos_token_id) == ([end, bos], end, bos)
    assert (found.do_sample, found.max_new_tokens) == (False, 77)


def test_a_tokenizer_without_the_chats_tokens_is_refused(tmp_path: Path) -> None:
    whole = train_tokenizer(["What is 12 + 7?"] * 9, TokenizerConfig(vocab_size=300))
    lacking = Tokenizer(whole.pattern, whole.merges, SPECIAL_TOKENS[:5])
    with pytest.raises(TokenizerError, match=r"lacks <\|python_start\|>"):
        write_huggingface(tmp_path, random_model(lacking.vocab_size, **PLAIN), lacking, 8)
    assert not list(tmp_path.iterdir())


def test_special_tokens_of_ones_own_are_refused_in_messages_too(tmp_path: Path) -> None:
    whole = train_tokenizer(["What is 12 + 7?"] * 9, TokenizerConfig(vocab_size=300))
    more = Tokenizer(whole.pattern, whole.merges, [*SPECIAL_TOKENS, "<'\"own>"])
    write_huggingface(tmp_path, random_model(more.vocab_size, **PLAIN), more, 8)
    theirs = load_tokenizer(tmp_path, False)
    assert rendered(theirs, [ASK, SAY]) == render(more, [ASK, SAY])[0]
    with pytest.raises(jinja2.TemplateError, match="<'\"own>"):
        theirs.apply_chat_template([user_message("x <'\"own>"), SAY])


def test_the_template_is_in_the_file_that_others_read(tmp_path: Path) -> None:
    write_huggingface(tmp_path, random_model(tokenizer().vocab_size, **PLAIN), tokenizer(), 8)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "generation" in settings["chat_template"] and settings["tokenizer_class"] == "PreTrainedTokenizerFast"
