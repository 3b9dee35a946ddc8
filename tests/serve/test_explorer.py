"""The explorer: which questions it finds, what it shows of them, and what a checkpoint computes on them."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from aquarat_core.artifacts.names import give, take_away
from aquarat_core.errors import DataError
from aquarat_core.evaluation.interpret.watching import attention_from, watch
from aquarat_core.evaluation.records import write_records
from aquarat_core.loading import load
from aquarat_core.serving.catalog import Catalog
from aquarat_core.serving.explorer import answers as answers_module
from aquarat_core.serving.explorer.answers import read_answers
from aquarat_core.serving.explorer.inside import attention_view, encoded, lens_view, token_view
from aquarat_core.serving.explorer.views import PAGE_SIZE, Explorer
from tests.factories import tokenizer
from tests.serve.web_store import (
    HOSTILE,
    NAME,
    N,
    WebStore,
    broken_parquet,
    get,
    record,
    rl_answers,
    sft_answers,
)


def asked(url: str, what: str, **parameters: object) -> dict[str, Any]:
    reply = get(f"{url}/explore/{what}", **parameters)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(url: str, what: str, **parameters: object) -> tuple[int, str]:
    reply = get(f"{url}/explore/{what}", **parameters)
    return reply.status_code, reply.json()["error"]["message"]


# --- finding questions ------------------------------------------------------------------------------------------------


def test_the_explorer_opens_with_rl_beside_sft(url: str, web: WebStore) -> None:
    assert asked(url, "reports")["first"] == web.rl_report.sha256
    found = asked(url, "questions", report=web.rl_report.sha256)
    assert found["other"]["id"] == web.sft_report.sha256
    assert found["evaluations"] == [{"name": NAME, "questions": N, "accuracy": pytest.approx(53 / 60)}]


def test_the_names_of_reports_and_checkpoints_are_beside_them(web: WebStore) -> None:
    give(web.sft, "first-sft")
    give(web.sft_report, "its-report")
    try:
        (shown,) = [r for r in Explorer(Catalog(web.uri)).reports()["reports"] if r["id"] == web.sft_report.sha256]
        assert (shown["names"], shown["on_names"]) == (["its-report"], ["first-sft"])
        assert Catalog(web.uri).find("its-report").sha256 == web.sft_report.sha256
    finally:
        take_away(web.store, "first-sft")
        take_away(web.store, "its-report")


def test_filters_are_counted_and_kept(url: str) -> None:
    counts = asked(url, "questions", report="rl_eval_report")["counts"]
    # SFT is wrong on the 20 multiples of 3; RL on the 5 multiples of 12, and on 1 and 2.
    assert counts == {"all": 60, "fixed": 15, "broke": 2, "form": 1, "wrong": 5, "right": 38}
    for name, ids in (("broke", ["q01", "q02"]), ("form", ["q02"]), ("wrong", ["q00", "q12", "q24", "q36", "q48"])):
        found = asked(url, "questions", report="rl_eval_report", filter=name)
        assert [one["id"] for one in found["questions"]] == ids


def test_without_another_report_nothing_is_fixed_or_broken(url: str) -> None:
    found = asked(url, "questions", report="rl_eval_report", other="none")
    assert found["other"] is None and found["counts"]["fixed"] == found["counts"]["broke"] == 0
    assert found["counts"]["wrong"] == 7


def test_pages_of_the_list_have_each_question_once(url: str) -> None:
    seen: list[str] = []
    for page in range(3):
        found = asked(url, "questions", report="rl_eval_report", page=page)
        assert (found["page"], found["pages"]) == (page, 3)
        seen += [one["id"] for one in found["questions"]]
    assert seen == [f"q{i:02d}" for i in range(N)] and PAGE_SIZE == 25
    assert asked(url, "questions", report="rl_eval_report", page=99)["page"] == 2
    assert asked(url, "questions", report="rl_eval_report", around="q30")["page"] == 1
    assert asked(url, "questions", report="rl_eval_report", around="q30", filter="broke")["page"] == 0


def test_text_is_searched_in_questions_answers_and_ids(url: str) -> None:
    assert [q["id"] for q in asked(url, "questions", report="rl_eval_report", text="ALERT(1)")["questions"]] == ["q05"]
    assert [q["id"] for q in asked(url, "questions", report="rl_eval_report", text="q17")["questions"]] == ["q17"]
    assert asked(url, "questions", report="rl_eval_report", text="no such words")["questions"] == []


def test_a_prompt_that_was_asked_differently_is_not_compared(tmp_path: Path, store_uri: str) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    changed = [record(3, True, prompt_sha256="f" * 64), record(6, True)]
    report = web.report("rl", web.rl, changed, web.sft_report)
    explorer = Explorer(Catalog(store_uri))
    found = explorer.questions(report.sha256)
    assert found["counts"]["fixed"] == 1
    assert [one["before"] for one in found["questions"]] == [None, 0.0]
    assert explorer.question(report.sha256, "", "", "q03")["differs"] is True


# --- one question -----------------------------------------------------------------------------------------------------


def test_a_question_is_shown_with_both_answers(url: str, web: WebStore) -> None:
    found = asked(url, "question", report="rl_eval_report", question="q03")
    assert found["gold"] == record(3, True).gold and found["letters"] == list("ABCDE")
    assert [side["id"] for side in found["sides"]] == [web.sft_report.sha256, web.rl_report.sha256]
    assert [side["answers"][0]["mark"] for side in found["sides"]] == ["wrong", "right"]
    assert {side["answers"][0]["gold"] for side in found["sides"]} == {found["gold"]}
    form = asked(url, "question", report="rl_eval_report", question="q02")["sides"][1]["answers"][0]
    assert (form["mark"], form["parsed"], form["stop_reason"]) == ("form", None, "length")


def test_hostile_text_is_passed_on_as_json_alone(url: str) -> None:
    reply = get(f"{url}/explore/question", report="rl_eval_report", question="q05")
    assert reply.headers["content-type"] == "application/json" and reply.headers["x-content-type-options"] == "nosniff"
    assert reply.json()["sides"][1]["answers"][0]["text"].startswith(HOSTILE)
    page = get(f"{url}/explore", report="rl_eval_report", question=HOSTILE)
    assert "alert(1)" not in page.text


def test_the_history_follows_the_chain(url: str, web: WebStore) -> None:
    found = asked(url, "history", report="rl_eval_report", question="q03")["entries"]
    assert [(one["checkpoint"], one["answers"][0]["mark"], one["in_chain"]) for one in found] == [
        ("sft_checkpoint", "wrong", True),
        ("rl_checkpoint", "right", True),
    ]
    assert asked(url, "history", report="sft_eval_report", question="q03")["entries"] == found


def test_a_deep_link_finds_its_question_by_every_name_of_the_report(url: str, web: WebStore) -> None:
    for report in (web.rl_report.sha256, web.rl_report.sha256[:8], "rl_eval_report"):
        link = {"report": report, "evaluation": NAME, "question": "q07", "sample": 0}
        assert get(f"{url}/explore", **link).status_code == 200
        assert asked(url, "question", **link)["id"] == "q07"
    tag = get(f"{url}/explore/question", report="rl_eval_report", question="q07").headers["etag"]
    assert tag == get(f"{url}/explore/question", report="rl_eval_report", question="q07").headers["etag"]


@pytest.mark.parametrize(
    ("what", "parameters", "status", "said"),
    [
        ("questions", {"report": "nothing"}, 404, "has nothing called 'nothing'"),
        ("questions", {"report": "rl_checkpoint"}, 404, "is a checkpoint, not the eval report"),
        ("questions", {"report": "rl_eval_report", "filter": "x"}, 400, "the filters are fixed, broke"),
        ("questions", {"report": "rl_eval_report", "evaluation": "x"}, 400, "has no evaluation 'x'"),
        ("questions", {"report": "rl_eval_report", "page": "-1"}, 400, "page must be a whole number"),
        ("questions", {"report": "x" * 501}, 400, "more than 500 characters"),
        ("question", {"report": "rl_eval_report", "question": "q99"}, 404, "has no question 'q99'"),
        ("inside", {"report": "rl_eval_report", "question": "q01", "view": "x"}, 400, "view must be one of"),
        ("inside", {"report": "rl_eval_report", "question": "q01", "sample": 7, "view": "lens"}, 404, "no answer 7"),
        ("inside", {"report": "rl_eval_report", "question": "q01", "view": "attention", "layer": 9}, 400, "0 to 1"),
        ("inside", {"report": "rl_eval_report", "question": "q01", "view": "lens", "token": 9999}, 400, "between 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_said(url: str, what: str, parameters: dict[str, Any], status: int, said: str) -> None:
    found = refused(url, what, **parameters)
    assert found[0] == status and said in found[1]


# --- damaged and hostile files ----------------------------------------------------------------------------------------


def publish(web: WebStore, questions: bytes, report: bytes = b'{"format": 1}') -> str:
    files = {"questions.parquet": questions, "report.json": report}
    return web.publish("rl_eval_report", "report", files, [web.rl, web.sft_report]).sha256


def test_damaged_answers_are_an_error_that_names_them(
    tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    good = (web.rl_report.path("questions.parquet")).read_bytes()
    odd = tmp_path / "odd.parquet"
    pq.write_table(pa.table({name: [1] for name in ("id", "question", "gold", "completion", "parsed", "correct")}), odd)
    short = tmp_path / "short.parquet"
    pq.write_table(pa.table({"id": ["a"]}), short)
    cases = (
        (broken_parquet(rl_answers(), tmp_path), b"{}", "cannot be read"),
        (b"no parquet", b"{}", "cannot be read"),
        (odd.read_bytes(), b"{}", "holds int64, not"),
        (short.read_bytes(), b"{}", "have no column question"),
        (good, b"[" * 100_000, "nested more than 64 levels deep"),
        (good, b"", "it is empty"),
    )
    explorer = Explorer(Catalog(store_uri))
    for questions, report, said in cases:
        name = publish(web, questions, report)
        with pytest.raises(ValueError, match=said):
            explorer.questions(name)
    # The others can be looked at all the same, and the broken one's place in the history is empty.
    assert explorer.questions(web.sft_report.sha256)["counts"]["all"] == N
    assert len(explorer.history(web.sft_report.sha256, "", "q03")["entries"]) >= 2
    monkeypatch.setattr(answers_module, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"more than the explorer's 100"):
        read_answers(web.sft_report)


def test_text_that_is_not_utf_8_is_shown_with_marks(tmp_path: Path, store_uri: str) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    table = pq.read_table(web.rl_report.path("questions.parquet"))
    invalid = pa.array([b"\xff\xfe text"] * len(table), pa.binary()).view(pa.string())
    file = tmp_path / "invalid.parquet"
    pq.write_table(table.set_column(table.schema.get_field_index("completion"), "completion", invalid), file)
    found = Explorer(Catalog(store_uri)).question(publish(web, file.read_bytes()), "none", "", "q03")
    assert found["sides"][0]["answers"][0]["text"] == "\ufffd\ufffd text"


def test_a_report_from_before_there_were_several_evaluations_is_read(tmp_path: Path, store_uri: str) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    columns = ["id", "question", "gold", "completion", "parsed", "correct", "n_tokens", "truncated", "stop_reason"]
    file = tmp_path / "old.parquet"
    pq.write_table(pq.read_table(web.rl_report.path("questions.parquet"), columns=columns), file)
    found = Explorer(Catalog(store_uri)).questions(publish(web, file.read_bytes()), "none")
    assert found["evaluation"] == "" and found["counts"]["all"] == N


def test_where_letters_were_compared_the_chosen_one_is_looked_into(tmp_path: Path, store_uri: str) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    scored = [record(i, True, completion="", choice_scores=(-1.0, -2.0), stop_reason="scored") for i in range(3)]
    write_records(tmp_path / "letters.parquet", scored)
    facts = json.dumps({"evaluations": [{"name": NAME, "protocol": "letters"}]}).encode()
    report = publish(web, (tmp_path / "letters.parquet").read_bytes(), facts)
    answer = Explorer(Catalog(store_uri)).question(report, "none", "", "q01")["sides"][0]["answers"][0]
    assert answer["scores"] == [-1.0, -2.0] and answer["inside"] is True and answer["text"] == ""
    answers = read_answers(web.store.get(report))
    assert answers.written(NAME, 1) == f"Answer: {scored[1].gold}"


def test_numbers_and_texts_that_are_none_are_not_shown(tmp_path: Path, store_uri: str) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    facts = json.dumps({"evaluations": [{"name": NAME}]}).encode()
    for scores in ((float("nan"), -1.0), (float("inf"), -1.0), (None, -1.0)):
        scored = [record(i, True, choice_scores=scores) for i in range(3)]
        write_records(tmp_path / "scores.parquet", scored)
        report = publish(web, (tmp_path / "scores.parquet").read_bytes(), facts)
        assert (
            Explorer(Catalog(store_uri)).question(report, "none", "", "q01")["sides"][0]["answers"][0]["scores"] is None
        )
    table = pq.read_table(tmp_path / "scores.parquet")
    bad = pa.array([b"\xff"] * len(table), pa.binary())
    for column in ("evaluation", "id", "stop_reason"):
        texts = pa.Array.from_buffers(pa.string(), len(table), bad.buffers())
        place = table.schema.get_field_index(column)
        pq.write_table(table.set_column(place, table.schema.field(column), texts), tmp_path / "bad.parquet")
        report = publish(web, (tmp_path / "bad.parquet").read_bytes(), facts)
        with pytest.raises(DataError, match="not UTF-8"):
            read_answers(web.store.get(report))


def test_a_report_with_a_huge_number_is_listed(tmp_path: Path, store_uri: str) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    files = {"questions.parquet": b"x", "report.json": b"{}"}
    made = web.publish("rl_eval_report", "report", files, [web.aqua, web.rl], metrics={"accuracy": 10**400})
    found = next(one for one in Explorer(Catalog(store_uri)).reports()["reports"] if one["id"] == made.sha256)
    assert found["accuracy"] is None


# --- inside a checkpoint ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", ["rl_eval_report", "sft_eval_report"])
def test_the_probability_of_each_token_is_the_checkpoints(url: str, web: WebStore, report: str) -> None:
    """RL is served, SFT is loaded when it is looked into."""
    found = asked(url, "inside", report=report, question="q05", view="tokens")
    model = load(report.replace("eval_report", "checkpoint"), store=web.uri)
    said = {"rl_eval_report": rl_answers(), "sft_eval_report": sft_answers()}[report][5]
    ids = encoded(model.tokenizer, said.question, said.completion, True, 256)
    inputs, targets = torch.tensor([ids.ids[:-1]]), torch.tensor([ids.ids[1:]])
    losses = model.transformer.token_losses(inputs, targets)[0].tolist()
    assert [one["logp"] for one in found["tokens"][1:]] == pytest.approx([-x for x in losses], abs=2e-3)
    assert found["prompt"] == ids.prompt and found["tokens"][-1]["text"] == "<|assistant_end|>"
    assert all(len(one["best"]) == 5 for one in found["tokens"][ids.prompt :])


def test_the_last_layer_of_the_lens_is_the_models_own_answer(url: str, web: WebStore) -> None:
    found = asked(url, "inside", report="rl_eval_report", question="q03", view="lens")
    model = load("rl_checkpoint", store=web.uri)
    said = rl_answers()[3]
    ids = encoded(model.tokenizer, said.question, said.completion, True, 256).ids
    place, letters = found["token"], found["letters"]
    assert found["text"] == f" {said.gold}" and place == len(ids) - 2, "the letter before the end token"
    probabilities = torch.softmax(model.transformer(torch.tensor([ids[:place]]))[0, -1], dim=0)
    last = found["rows"][-1]
    assert len(found["rows"]) == 1 + model.config.depth and letters == list("ABCDE")
    assert last["own_p"] == pytest.approx(float(probabilities[ids[place]]), abs=1e-4)
    assert sum(last["letters"]) == pytest.approx(1, abs=1e-3)


def test_the_attention_map_has_the_weights_of_the_head(web: WebStore) -> None:
    model = load("sft_checkpoint", store=web.uri)
    said = sft_answers()[4]
    ids = encoded(model.tokenizer, said.question, said.completion, True, 256)
    found = attention_view(model, ids, layer=1, head=2)
    n = found["size"]
    rows = torch.tensor(list(b64decode(found["map"]))).view(n, n)
    kept: list[torch.Tensor] = []

    def look(layer: int, q: torch.Tensor, k: torch.Tensor, window: int) -> None:
        if layer == 1:
            kept.extend(attention_from(q, k, torch.tensor([at]), window)[0, 2] for at in range(n))

    watch(model.transformer, torch.tensor([ids.ids]), look)
    assert n == len(ids.ids) and found["cut"] == 0
    assert torch.equal(rows, (255 * torch.stack(kept)).round().long())


def test_a_long_text_shows_the_end_of_its_map(web: WebStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from aquarat_core.serving.explorer import inside

    model = load("sft_checkpoint", store=web.uri)
    ids = encoded(model.tokenizer, "What is 2 plus 3?", "5 is the sum", True, 256)
    whole = attention_view(model, ids, 0, 0)
    monkeypatch.setattr(inside, "MAX_MAP", 6)
    part = attention_view(model, ids, 0, 0)
    n = whole["size"]
    expected = torch.tensor(list(b64decode(whole["map"]))).view(n, n)[n - 6 :, n - 6 :]
    assert part["cut"] == n - 6 and torch.equal(torch.tensor(list(b64decode(part["map"]))).view(6, 6), expected)


def test_calls_of_the_calculator_become_their_tokens(web: WebStore) -> None:
    tok = tokenizer()
    text = "48/2 = <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24"
    ids = encoded(tok, "Divide", text, False, 256)
    assert tok.decode(ids.ids[ids.prompt :]) == text
    assert ids.ids.count(tok.special("<|python_start|>")) == 1
    user = encoded(tok, text, "", False, 256)
    assert tok.special("<|python_start|>") not in user.ids, "in a prompt it stays text"


def test_what_does_not_fit_the_context_is_refused(web: WebStore) -> None:
    model = load("sft_checkpoint", store=web.uri)
    with pytest.raises(DataError, match="more than the 256 that can be shown"):
        encoded(model.tokenizer, "word " * 400, "", True, model.config.sequence_len)
    ids = encoded(model.tokenizer, "a", "b", True, 256)
    assert token_view(model, ids)["layers"] == model.config.depth
    assert lens_view(model, ids, (), 0)["letters"] == []


def test_the_answers_of_the_pages_are_plain_json(url: str) -> None:
    """No NaN, which a browser cannot read."""
    for view in ("tokens", "lens", "attention"):
        reply = get(f"{url}/explore/inside", report="rl_eval_report", question="q05", view=view)
        json.loads(reply.text, parse_constant=pytest.fail)
