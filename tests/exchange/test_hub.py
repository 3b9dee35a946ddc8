"""Releases on the Hub: one commit, nothing sent twice, nothing half there, nothing of another family replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aquarat_core.errors import DataError, UsageError
from aquarat_core.exchange.facts import FACTS, Publication, ReleaseFacts, write_facts
from aquarat_core.exchange.hub import Repository
from tests.exchange.model_hub import READER, WRITER, ModelHub, client_environment

NAME = "someone/model"
UPLOAD = """
import sys
from pathlib import Path
from aquarat_core.data import hub_client
hub_client.WAITS = (0.05, 0.05)
from aquarat_core.errors import UserError
from aquarat_core.exchange.hub import Repository, download, upload
what, name, folder, *more = sys.argv[1:]
options = dict(one.split("=") for one in more)
try:
    if what == "download":
        print(download(name))
    else:
        flags = {key: True for key in ("public", "force") if key in options}
        done = upload(Path(folder), Repository.parse(name), tag=options.get("tag"), **flags)
        print(done.commit, done.changed)
except UserError as e:
    print(f"{type(e).__name__}: {e}")
    sys.exit(2)
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return made(tmp_path / "release", root="a")


def made(folder: Path, root: str, weights: bytes = bytes(range(256)) * 100) -> Path:
    """A folder like a release of a family that starts with checkpoint `root`."""
    folder.mkdir()
    base, last = (
        Publication(asset=asset, manifest_sha256=mark * 64, data_version=mark * 64, run_id="r")
        for asset, mark in (("base_checkpoint", root), ("rl_checkpoint", "f"))
    )
    facts = ReleaseFacts(
        checkpoint=last, root=base, lineage=(base, last), questions_sha256=None, remote_code=False, form="plain"
    )
    write_facts(folder / FACTS, facts)
    (folder / "config.json").write_text('{"model": {}, "vocab_size": 300}\n')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def run(hub: ModelHub, *arguments: str, token: str | None = WRITER, code: int = 0) -> str:
    """What the real client says and does, in a process of its own, as it reads its address when it is imported."""
    environment = client_environment(hub) | ({"HF_TOKEN": token} if token else {})
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert not token or token.strip() not in done.stdout + done.stderr, "the token is shown"
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_a_release_is_one_private_commit_with_its_tag(hub: ModelHub, release: Path) -> None:
    commit, changed = run(hub, "upload", f"hf://{NAME}", str(release), "tag=v1").split()
    repo = hub.repos[NAME]
    assert changed == "True" and repo.private and repo.tags == {"v1": commit}
    assert len(repo.commits) == 2  # the repository's own first one, and ours
    expected = {path.name: path.read_bytes() for path in release.iterdir()}
    assert hub.files(NAME) == expected | {".gitattributes": hub.files(NAME)[".gitattributes"]}


def test_the_same_release_again_changes_nothing(hub: ModelHub, release: Path) -> None:
    first = run(hub, "upload", f"hf://{NAME}", str(release), "tag=v1")
    asked = len(hub.requests)
    assert run(hub, "upload", f"hf://{NAME}", str(release), "tag=v1").split() == [first.split()[0], "False"]
    assert not [r for r in hub.requests[asked:] if "commit" in r or "lfs" in r or "preupload" in r]
    assert len(hub.repos[NAME].commits) == 2


def test_a_newer_release_replaces_the_files_and_removes_what_it_no_longer_has(
    hub: ModelHub, release: Path, tmp_path: Path
) -> None:
    (release / "modeling_aquarat.py").write_text("code = 1\n")
    run(hub, "upload", f"hf://{NAME}", str(release), "tag=v1")
    newer = made(tmp_path / "newer", root="a", weights=b"n" * 20_000)
    run(hub, "upload", f"hf://{NAME}", str(newer), "tag=v2")
    assert "modeling_aquarat.py" not in hub.files(NAME) and ".gitattributes" in hub.files(NAME)
    assert hub.files(NAME)["model.safetensors"] == b"n" * 20_000
    assert hub.files(NAME, "v1")["modeling_aquarat.py"] == b"code = 1\n"


def test_faults_of_the_hub_are_overcome_and_nothing_is_sent_twice(hub: ModelHub, release: Path) -> None:
    hub.faults = {"objects/batch": [503], "PUT /lfs": [0], "/commit/": [503]}
    run(hub, "upload", f"hf://{NAME}", str(release))
    assert hub.files(NAME)["model.safetensors"] == (release / "model.safetensors").read_bytes()
    assert set(hub.uploads.values()) == {1}


def test_an_upload_that_was_cut_off_shows_nothing_and_is_continued(hub: ModelHub, release: Path) -> None:
    hub.faults = {"/commit/": [500] * 9}
    said = run(hub, "upload", f"hf://{NAME}", str(release), code=2)
    assert "not delivered in 3 tries" in said and NAME in said
    assert set(hub.files(NAME)) == {".gitattributes"} and sum(hub.uploads.values()) == 1
    hub.faults = {}
    run(hub, "upload", f"hf://{NAME}", str(release))
    assert "model.safetensors" in hub.files(NAME) and sum(hub.uploads.values()) == 1


def test_a_commit_whose_reply_was_lost_counts(hub: ModelHub, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_one = hub.RequestHandlerClass._commit

    def lose(self, body: bytes, name: str, branch: str) -> None:
        answer, self._answer = self._answer, lambda *_, **__: self.connection.shutdown(2)
        made_one(self, body, name, branch)
        self._answer = answer
        self.close_connection = True

    monkeypatch.setattr(hub.RequestHandlerClass, "_commit", lose)
    commit, changed = run(hub, "upload", f"hf://{NAME}", str(release)).split()
    assert changed == "True" and hub.repos[NAME].branches["main"] == commit and len(hub.repos[NAME].commits) == 2


def test_a_model_of_another_family_is_only_replaced_by_force(hub: ModelHub, release: Path, tmp_path: Path) -> None:
    run(hub, "upload", f"hf://{NAME}", str(release))
    before, other = hub.files(NAME), made(tmp_path / "other", root="b")
    said = run(hub, "upload", f"hf://{NAME}", str(other), code=2)
    assert "descends from base_checkpoint aaaaaaaaaaaa" in said and "--force" in said and hub.files(NAME) == before
    run(hub, "upload", f"hf://{NAME}", str(other), "force=")
    assert hub.files(NAME)[FACTS] == (other / FACTS).read_bytes()


def test_weights_that_are_not_a_release_are_not_replaced(hub: ModelHub, release: Path) -> None:
    run(hub, "upload", f"hf://{NAME}", str(release))
    hub.repos[NAME].commit("main", {"pytorch_model.bin": b"weights"})
    assert "that aquarat did not release (pytorch_model.bin)" in run(
        hub, "upload", f"hf://{NAME}", str(release), code=2
    )


def test_a_tag_is_not_moved(hub: ModelHub, release: Path, tmp_path: Path) -> None:
    run(hub, "upload", f"hf://{NAME}", str(release), "tag=v1")
    head = hub.repos[NAME].branches["main"]
    newer = made(tmp_path / "newer", root="a", weights=b"n" * 20_000)
    said = run(hub, "upload", f"hf://{NAME}", str(newer), "tag=v1", code=2)
    assert "has a tag v1 already, of another release" in said and hub.repos[NAME].branches["main"] == head


def test_a_branch_of_its_own(hub: ModelHub, release: Path) -> None:
    run(hub, "upload", f"hf://{NAME}@next", str(release), "public=")
    assert not hub.repos[NAME].private
    assert set(hub.files(NAME)) == {".gitattributes"} and "model.safetensors" in hub.files(NAME, "next")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "HF_TOKEN is not set"),
        (READER, "refused with status 403"),
        ("hf_wrong", "refused with status 401"),
        ("hf_wri ter", "characters that no token has"),
        ("hf_writ\u00e9r", "characters that no token has"),
    ],
)
def test_tokens_that_may_not_write_are_named(hub: ModelHub, release: Path, token: str | None, reason: str) -> None:
    assert reason in run(hub, "upload", f"hf://{NAME}", str(release), token=token, code=2)
    assert not hub.repos


def test_a_token_from_a_file_may_end_in_a_line_break(hub: ModelHub, release: Path) -> None:
    run(hub, "upload", f"hf://{NAME}", str(release), token=f"{WRITER}\n")
    assert "model.safetensors" in hub.files(NAME)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"format": 1}', b"[" * 100_000])
def test_a_damaged_release_is_only_replaced_by_force(hub: ModelHub, release: Path, damage: bytes) -> None:
    run(hub, "upload", f"hf://{NAME}", str(release))
    hub.repos[NAME].commit("main", {FACTS: damage, "model.safetensors": b"x"})
    said = run(hub, "upload", f"hf://{NAME}", str(release), code=2)
    assert "holds a release.json that cannot be read" in said and "--force" in said
    run(hub, "upload", f"hf://{NAME}", str(release), "force=")


@pytest.mark.parametrize(
    ("uri", "options", "reason"),
    [
        (f"hf://{NAME}@v1", (), "v1 is a tag"),
        (f"hf://{NAME}@{'a' * 40}", (), "is a commit"),
        (f"hf://{NAME}", ("tag=bad tag",), "is not a name for a tag"),
    ],
)
def test_names_that_are_no_branches_or_tags_are_refused(
    hub: ModelHub, release: Path, uri: str, options: tuple[str, ...], reason: str
) -> None:
    run(hub, "upload", f"hf://{NAME}", str(release), "tag=v1")
    before = hub.repos[NAME].branches.copy()
    assert reason in run(hub, "upload", uri, str(release), *options, code=2)
    assert hub.repos[NAME].branches == before


def test_a_download_has_the_release_and_no_code(hub: ModelHub, release: Path) -> None:
    (release / "modeling_aquarat.py").write_text("code = 1\n")
    commit = run(hub, "upload", f"hf://{NAME}", str(release), "tag=v1").split()[0]
    folder = Path(run(hub, "download", f"hf://{NAME}@v1", "-", token=READER))
    assert folder.name == commit
    assert {path.name for path in folder.iterdir()} == {path.name for path in release.iterdir()} - {
        "modeling_aquarat.py"
    }


@pytest.mark.parametrize(
    ("uri", "token", "reason"),
    [
        ("hf://no/such", READER, "there is no such repository"),
        (f"hf://{NAME}", None, "there is no such repository, or it is private and HF_TOKEN is not set"),
        (f"hf://{NAME}@v9", READER, "there is no such revision"),
        ("hf://someone/gated", READER, "request access on its page"),
    ],
)
def test_what_cannot_be_downloaded_is_said(
    hub: ModelHub, release: Path, uri: str, token: str | None, reason: str
) -> None:
    for name in (NAME, "someone/gated"):
        run(hub, "upload", f"hf://{name}", str(release))
    hub.gated.add("someone/gated")
    assert reason in run(hub, "download", uri, "-", token=token, code=2)


@pytest.mark.parametrize("uri", ["hf://", "hf://model", "hf://a/b/c", "hf://a/b@", "hf:a/b", "hf://a b/c"])
def test_an_address_that_names_no_repository_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="hf://owner/name"):
        Repository.parse(uri)


def test_a_damaged_description_of_a_release_is_named(tmp_path: Path) -> None:
    from aquarat_core.exchange.facts import read_facts

    with pytest.raises(DataError, match="cannot be read"):
        read_facts(tmp_path / FACTS)
    (tmp_path / FACTS).write_text('{"format": 2}')
    with pytest.raises(ValueError, match="format"):
        read_facts(tmp_path / FACTS)
