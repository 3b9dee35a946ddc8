"""`aquarat eval`: evaluates any checkpoint on any task under any protocol."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.finding import find_artifact, find_checkpoint
from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer, log
from aquarat_core.cli.progress import counting_bar
from aquarat_core.config import EvalConfig, LaunchConfig, validate
from aquarat_core.config.core import MAX_CORE_SHOTS
from aquarat_core.config.evaluation import CHAT_CORE, Asked, ChatCoreConfig, Cue, EvalEntry, Split
from aquarat_core.config.protocols import GENERATING, GREEDY, HARNESS, SINGLE, EvalProtocol
from aquarat_core.config.tasks import MAIN_TASK
from aquarat_core.config.validation import did_you_mean
from aquarat_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from aquarat_core.cli.evaluation_output import Found
    from aquarat_core.config import CoreConfig
    from aquarat_core.evaluation.harness.running import HarnessResults
    from aquarat_core.evaluation.protocols import Evaluator
    from aquarat_core.evaluation.protocols.subject import Subject
    from aquarat_core.stages.task_search import TaskSearch


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "eval",
        description="Asks a checkpoint the questions of tasks and prints accuracies with intervals and baselines. The"
        " questions are those of the data sets that the checkpoint was made from, else of the store's latest ones.",
    )
    command.add_argument(
        "artifact",
        metavar="CHECKPOINT",
        help="an asset (EXPERIMENT/ASSET in a named experiment) for its latest artifact, a name, (the beginning of) a "
        "manifest's hash, or a manifest's URI in any store",
    )
    command.add_argument("--tasks", metavar="A,B", help="tasks to ask (default: the one that it was trained for)")
    command.add_argument(
        "--protocol", metavar="P,Q", default=GREEDY,
        help=f"how they are asked: {', '.join(get_args(EvalProtocol))} (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--split", choices=get_args(Split), default="test", help="of the questions (%(default)s)")
    command.add_argument("--limit", type=int, metavar="N", help="questions of each task (default: all)")
    command.add_argument("--samples", type=int, metavar="K", help="sampled: samples of each question (16)")
    command.add_argument("--temperature", type=float, help="sampled: temperature (1)")
    command.add_argument("--cue", choices=get_args(Cue), help="letters: compared after the task's words for an answer,"
                         " or as the bare answer, as nanochat's checkpoints are trained (answer)")  # fmt: skip
    command.add_argument("--max-new-tokens", type=int, help="tokens of an answer at most (as in the newest report"
                         " on the checkpoint and task, or in its training; else 256, or half the context)")  # fmt: skip
    command.add_argument("--calculator", action="store_true", help="answer the model's calls of the calculator")
    command.add_argument("--as-given", action="store_true", help="show options in their published order, not shuffled")
    command.add_argument("--seed", type=int, default=30, help="of the order of options and of samples (%(default)s)")
    command.add_argument("--chat-core", action="store_true", help="also compute ChatCORE, of the tasks at hand")
    command.add_argument("--core", action="store_true", help="also compute CORE, of the base model's kind of tasks")
    command.add_argument("--bundle", type=Path, metavar="ZIP", help="CORE's questions: a bundle's zip file or folder"
                         " (default: the store's latest eval_bundle)")  # fmt: skip
    command.add_argument("--harness", metavar="A,B", help="tasks of lm-evaluation-harness to ask, or YAML files that"
                         " describe one; besides those of --tasks, if any")  # fmt: skip
    command.add_argument("--num-fewshot", type=int, metavar="N", help="--harness: solved examples before each question"
                         " (as the task says)")  # fmt: skip
    command.add_argument("--apply-chat-template", action="store_true", help="--harness: ask in the form of a chat")
    command.add_argument("--data", action="append", default=[], metavar="DATA_SET", help="a data set to take questions"
                         " from first: an asset, a hash or a URI; may be repeated")  # fmt: skip
    command.add_argument("--run-code", action="store_true", help="run the code that a data set holds for its task")
    command.add_argument("--out", type=Path, metavar="DIR", help="also write report.json, questions.parquet, report.md"
                         " and report.html to this folder")  # fmt: skip
    command.add_argument("--force", action="store_true", help="--out: replace a report that the folder holds already")
    add_store(command)
    add_json(command)
    command.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace) -> str:
    from aquarat_core.artifacts.survey import readable_artifacts
    from aquarat_core.cli.asked_before import uncounted_looks
    from aquarat_core.cli.evaluation_output import as_text, write_report
    from aquarat_core.evaluation.chat_core import chat_core
    from aquarat_core.evaluation.figures import evaluate
    from aquarat_core.stages.task_search import TaskSearch

    _check_harness(arguments)
    _check_out(arguments)
    checkpoint = find_checkpoint(arguments.artifact, arguments.store)
    _check_checkpoint(checkpoint)
    given = [find_artifact(name, arguments.store) for name in arguments.data]
    experiment = arguments.artifact.partition("/")[0] if arguments.artifact.count("/") == 1 else ""
    search = TaskSearch(checkpoint, given, experiment, arguments.run_code)
    there = readable_artifacts(checkpoint.store)
    config = _config(arguments, checkpoint, search, there)
    asked = _asked(arguments, config, search)
    with _bundle(arguments, checkpoint, experiment) as bundle:
        found = _ask(arguments, checkpoint, config, asked, search, bundle)
    evaluations = [evaluate(one.facts, one.records) for one in found.answered]
    chat = chat_core(config.of_chat_core(), evaluations)
    looks = uncounted_looks(there, [e for e in evaluations if e["protocol"] != HARNESS])
    if arguments.out:
        data = [search.find(task, arguments.split).dataset for task in dict.fromkeys(a.task for a in asked)]
        write_report(arguments.out, checkpoint, data, config, found, evaluations, chat, looks)
    machine = {
        "asset": checkpoint.asset,
        "manifest_sha256": checkpoint.sha256,
        "evaluations": evaluations,
        "chat_core": chat,
        "core": found.core,
        "harness": found.harness.results if found.harness else None,
        "out": str(arguments.out) if arguments.out else None,
    }
    return answer(arguments, machine, as_text(checkpoint, evaluations, chat, found, looks, arguments.out))


def _check_harness(arguments: argparse.Namespace) -> None:
    """Checks the options of the harness before anything is loaded."""
    if arguments.harness is None:
        if arguments.num_fewshot is not None or arguments.apply_chat_template:
            raise UsageError("--num-fewshot and --apply-chat-template are about the tasks of --harness: name some")
        return
    from aquarat_core.evaluation.harness.running import check_installed

    check_installed()
    if not _names(arguments.harness, "--harness"):
        raise UsageError("--harness names no task")
    if arguments.num_fewshot is not None and arguments.num_fewshot < 0:
        raise UsageError("--num-fewshot must be at least 0")


def _check_out(arguments: argparse.Namespace) -> None:
    """Refuses to replace a report before anything is loaded."""
    from aquarat_core.cli.evaluation_output import FILES

    if arguments.out and not arguments.force and (held := [x for x in FILES if (arguments.out / x).exists()]):
        raise UsageError(f"{arguments.out} holds a report already ({held[0]}): take another folder, or say --force")


def _check_checkpoint(artifact: Artifact) -> None:
    from aquarat_core.text.tokenizer import TOKENIZER_FILE

    if artifact.manifest.kind != "checkpoint":
        raise UsageError(f"{artifact.asset} is a {artifact.manifest.kind}: only checkpoints can be evaluated")
    if all(entry.path != TOKENIZER_FILE for entry in artifact.manifest.files):
        raise DataError(
            f"{artifact.asset} ({artifact.sha256[:12]}) was published without its tokenizer ({TOKENIZER_FILE}), and "
            "cannot be asked anything: import or make it again with one"
        )


def _config(
    arguments: argparse.Namespace, checkpoint: Artifact, search: TaskSearch, there: Mapping[str, Artifact]
) -> EvalConfig:
    """The profile section that asks for the same evaluations; its main task is the first one."""
    from aquarat_core.cli.asked_before import default_new_tokens, new_tokens

    for option in ("limit", "samples", "max_new_tokens"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            raise UsageError(f"--{option.replace('_', '-')} must be at least 1")
    if arguments.core and arguments.limit is not None and arguments.limit <= MAX_CORE_SHOTS:
        raise UsageError(
            f"--limit must be at least {MAX_CORE_SHOTS + 1} with --core: up to {MAX_CORE_SHOTS} questions are shown "
            "as examples before each"
        )
    named = _names(arguments.tasks, "--tasks")
    others = arguments.chat_core or arguments.core or arguments.harness
    names = named or ([] if others else [_own_task(checkpoint)])
    # An own limit of each task, because what is enough for one may cut the answers to another off.
    limits = {task: arguments.max_new_tokens or new_tokens(checkpoint, there, task) for task in names}
    entries = [_entry(arguments, x, protocol, limits[x]) for x in names for protocol in _protocols(arguments)]
    first = arguments.chat_core or (arguments.harness and not entries)  # What a report can be about first.
    if arguments.out and not first and not SINGLE.intersection(e.protocol for e in entries):
        names = names or [_own_task(checkpoint)]  # a report is about single answers to questions of a task first
        tokens = arguments.max_new_tokens or new_tokens(checkpoint, there, names[0])
        entries.insert(0, EvalEntry(task=names[0], limit=arguments.limit, max_new_tokens=tokens))
    chat = _chat_core(arguments, search) if arguments.chat_core else None
    fields = {
        "task": names[0] if names else MAIN_TASK,
        "split": arguments.split,
        "limit": arguments.limit,
        "tasks": entries,
        "chat_core": chat,
        "core": {"limit": arguments.limit} if arguments.core else None,
        "permute_options": not arguments.as_given,
        "max_new_tokens": arguments.max_new_tokens or default_new_tokens(checkpoint),
        "calculator": arguments.calculator,
        "seed": arguments.seed,
        "launch": LaunchConfig(nproc=1, threads=len(os.sched_getaffinity(0))),
    }
    return validate(EvalConfig, fields, "the options of aquarat eval")


def _names(text: str | None, option: str) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise UsageError(f"{option} names {twice} twice: once is enough")
    return names


def _protocols(arguments: argparse.Namespace) -> list[EvalProtocol]:
    names, known = _names(arguments.protocol, "--protocol"), get_args(EvalProtocol)
    if unknown := [name for name in names if name not in known]:
        hint = did_you_mean(unknown[0], known)
        raise UsageError(f"--protocol {unknown[0]}: {hint}the protocols are {', '.join(known)}")
    return cast("list[EvalProtocol]", names)


def _entry(arguments: argparse.Namespace, task: str, protocol: EvalProtocol, tokens: int | None) -> EvalEntry:
    """The entry of a task under a protocol. Options that this protocol does not use are for the others."""
    sampled = protocol == "sampled"
    fields = {
        "task": task,
        "protocol": protocol,
        "limit": arguments.limit,
        "samples": arguments.samples if sampled else None,
        "temperature": arguments.temperature if sampled else None,
        "cue": arguments.cue if protocol == "letters" else None,
        "max_new_tokens": tokens if protocol in GENERATING else None,
    }
    return validate(EvalEntry, fields, "the options of aquarat eval")


def _own_task(checkpoint: Artifact) -> str:
    """The task that the config of a checkpoint names; the main task of the profiles if it names none."""
    from aquarat_core.tasks.registry import DATASETS

    config: dict[str, Any] = checkpoint.manifest.config
    tasks = config.get("tasks")
    named = [str(task.get("name")) for task in cast("list[dict[str, Any]]", tasks)] if isinstance(tasks, list) else []
    return str(config.get("validation_task") or next(iter([*named, *DATASETS.values()])))


def _chat_core(arguments: argparse.Namespace, search: TaskSearch) -> ChatCoreConfig:
    """ChatCORE for the tasks that have test questions. Raises `DataError` if no task has any."""
    found: list[str] = []
    reason = ""
    for task, _, _ in CHAT_CORE:
        try:
            search.find(task, "test")
        except DataError as e:
            reason = str(e)
        else:
            found.append(task)
    if not found:
        raise DataError(f"--chat-core: there are no questions of any of its tasks; of the last one, {reason}")
    return ChatCoreConfig(limit=arguments.limit, tasks=tuple(found), cue=arguments.cue or "answer")


def _asked(arguments: argparse.Namespace, config: EvalConfig, search: TaskSearch) -> list[Asked]:
    """The evaluations, each once; those that can be a report's main evaluation come first."""
    entries = [config.resolved(entry) for entry in config.tasks]
    for one in entries:
        search.find(one.task, one.split)
    found: dict[str, Asked] = {}
    for one in [*entries, *config.of_chat_core()]:
        found.setdefault(one.name, one)
    ordered = sorted(found.values(), key=lambda one: one.protocol not in SINGLE)
    if arguments.calculator and not any(one.protocol in GENERATING for one in ordered):
        raise UsageError("--calculator: none of these protocols lets the model write: leave it out")
    return ordered


@contextmanager
def _bundle(arguments: argparse.Namespace, checkpoint: Artifact, experiment: str) -> Generator[tuple[Path, str] | None]:
    """The folder of CORE's questions and their version, if they are asked for."""
    from aquarat_core.stages.core import opened_bundle
    from aquarat_core.stages.stage import EVAL_BUNDLE

    if not arguments.core:
        if arguments.bundle:
            raise UsageError("--bundle is for --core: say that too, or leave it out")
        yield None
        return
    if arguments.bundle:
        with opened_bundle(arguments.bundle) as found:
            yield found
        return
    names = [f"{experiment}/{EVAL_BUNDLE}"] if experiment else []
    latest = next(filter(None, map(checkpoint.store.latest, [*names, EVAL_BUNDLE])), None)
    if latest is None:
        raise DataError(
            f"{checkpoint.store.uri} has no {EVAL_BUNDLE}: set eval_report.core in your profile and run `aquarat "
            f"materialize {EVAL_BUNDLE}`, or name a bundle's zip file with --bundle"
        )
    yield latest.directory(), latest.data_version


def _ask(
    arguments: argparse.Namespace,
    checkpoint: Artifact,
    config: EvalConfig,
    asked: Sequence[Asked],
    search: TaskSearch,
    bundle: tuple[Path, str] | None,
) -> Found:
    from aquarat_core.cli.evaluation_output import Found
    from aquarat_core.evaluation import suite
    from aquarat_core.evaluation.protocols import evaluator
    from aquarat_core.stages.evaluations import questions

    splits = {one.task: one.split for one in asked}
    found = {task: search.find(task, split) for task, split in splits.items()}
    data = list({x.dataset.sha256: x.dataset for x in found.values()}.values())
    plan = questions(asked, found.__getitem__, data)
    named = {config.resolved(entry).name for entry in config.tasks}
    plan = suite.runnable(plan, config.optional() - named, log)
    if not plan and not bundle and not arguments.harness:
        raise UsageError("none of these tasks can be graded on this machine")
    tell: Callable[[int, int, str], None]
    with evaluator(checkpoint.directory(), config) as model, counting_bar() as tell:
        found = Found(suite.run(model, plan, tell))
        if bundle is not None and config.core is not None:
            _run_core(found, model, config.core, bundle, tell)
        if arguments.harness:
            found.harness = _run_harness(arguments, checkpoint, model.subject, tell)
            found.answered += found.harness.answered
        return found


def _run_core(
    found: Found,
    model: Evaluator,
    config: CoreConfig,
    bundle: tuple[Path, str],
    tell: Callable[[int, int, str], None],
) -> None:
    from aquarat_core.evaluation.core.evaluations import as_answered
    from aquarat_core.evaluation.core.scoring import evaluate_core
    from aquarat_core.stages.stage import EVAL_BUNDLE

    folder, version = bundle
    core = evaluate_core(
        model.model, model.tokenizer, folder, config, model.world, lambda done, total: tell(done, total, "CORE")
    )
    assert core is not None, "there is one rank"
    found.core, found.core_tasks = core.report, as_answered(core, EVAL_BUNDLE, version)


def _run_harness(
    arguments: argparse.Namespace, checkpoint: Artifact, subject: Subject, tell: Callable[[int, int, str], None]
) -> HarnessResults:
    from aquarat_core.evaluation.harness.running import HarnessAsked, run

    asked = HarnessAsked(
        _names(arguments.harness, "--harness"),
        arguments.limit,
        arguments.num_fewshot,
        arguments.apply_chat_template,
        arguments.seed,
    )
    return run(subject, asked, f"{checkpoint.asset} {checkpoint.sha256}", tell)
