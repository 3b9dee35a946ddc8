"""Tokens for one prefix: what is asked of Google, how they reach a host and are replaced, and what is never shown."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

import google.oauth2.credentials
import pytest

from aquarat_core.artifacts import ArtifactStore, StoreError
from aquarat_core.artifacts.credentials import JobToken, environment_credentials, read_token
from tests.serving import serving

HOUR = timedelta(hours=1)


class _Answer:
    def __init__(self, status: int, body: dict) -> None:
        self.status, self.data, self.headers = status, json.dumps(body).encode(), {}


class TokenService:
    """Google's exchange of a token for a narrower one: it demands the fields of RFC 8693 and counts what it gave."""

    def __init__(self, lives: timedelta = HOUR) -> None:
        self.asked: list[dict[str, str]] = []
        self.lives = lives

    def __call__(
        self, url: str, method: str = "GET", body: bytes = b"", headers: dict | None = None, **_: object
    ) -> _Answer:
        assert (url, method) == ("https://sts.googleapis.com/v1/token", "POST")
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        fields = {name: values[0] for name, values in parse_qs(body.decode(), strict_parsing=True).items()}
        assert fields["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
        assert fields["subject_token"] == "long-lived"
        self.asked.append(fields)
        seconds = int(self.lives.total_seconds())
        return _Answer(
            200, {"access_token": f"narrow-{len(self.asked)}", "expires_in": seconds, "token_type": "Bearer"}
        )


def mint(service: TokenService, uri: str = "gs://bucket/team/aquarat") -> JobToken:
    def refresh(request: object, scopes: object) -> tuple[str, datetime]:
        return "long-lived", datetime.now(UTC).replace(tzinfo=None) + HOUR

    return JobToken(
        uri, "jobs/r/sft/1", "sft", google.oauth2.credentials.Credentials(None, refresh_handler=refresh), service
    )


def test_the_token_opens_what_one_job_needs() -> None:
    service = TokenService()
    token, expiry = mint(service).token()
    assert token == "narrow-1" and abs(expiry - (datetime.now(UTC) + HOUR)) < timedelta(minutes=1)
    own, manifests = json.loads(unquote(service.asked[0]["options"]))["accessBoundary"]["accessBoundaryRules"]
    assert own["availablePermissions"] == ["inRole:roles/storage.objectUser"]
    assert manifests["availablePermissions"] == [
        "inRole:roles/storage.objectViewer",
        "inRole:roles/storage.objectCreator",
    ]
    for rule, starts in (
        (own, ("jobs/r/sft/1/", "work/sft/", "shards/sft/", "tmp/", "blobs/")),
        (manifests, ("manifests/",)),
    ):
        assert rule["availableResource"] == "//storage.googleapis.com/projects/_/buckets/bucket"
        objects = [f"resource.name.startsWith('projects/_/buckets/bucket/objects/team/aquarat/{s}')" for s in starts]
        listed = [
            f"api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('team/aquarat/{s}')"
            for s in starts
        ]
        assert rule["availabilityCondition"]["expression"] == " || ".join([*objects, *listed])


def test_a_token_is_replaced_ten_minutes_before_its_end_and_not_earlier(tmp_path: Path) -> None:
    path = tmp_path / "token.json"
    long, short = TokenService(), TokenService(lives=timedelta(minutes=9))
    minter = mint(long)
    expiry = minter.write(path)
    minter.write(path)
    assert len(long.asked) == 1 and read_token(path) == ("narrow-1", expiry.replace(tzinfo=None))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["token.json"]
    minter = mint(short)
    minter.write(path)
    minter.write(path)
    assert read_token(path)[0] == "narrow-2"


def test_the_host_takes_up_the_new_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token.json"
    mint(TokenService()).write(path)
    monkeypatch.setenv("AQUARAT_STORE_TOKEN_FILE", str(path))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    credentials = environment_credentials()
    assert credentials.token == "narrow-1" and credentials.valid
    later = datetime.now(UTC) + timedelta(hours=2)
    path.write_text(json.dumps({"token": "next", "expiry": later.isoformat()}))
    credentials.refresh(None)
    assert (credentials.token, credentials.expiry) == ("next", later.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "holds no token: the control host writes it"),
        ("{}", "holds no token"),
        ("not json", "holds no token"),
        ('{"token": "secret-value", "expiry": "2020-01-01T00:00:00+00:00"}', "expired at 2020-01-01 00:00 UTC"),
    ],
)
def test_a_file_without_a_good_token_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, said: str
) -> None:
    path = tmp_path / "token.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("AQUARAT_STORE_TOKEN_FILE", str(path))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    with pytest.raises(StoreError, match=said) as error:
        ArtifactStore.open("gs://bucket/x").latest("x")
    assert str(path) in str(error.value) and "secret-value" not in str(error.value)


@pytest.mark.parametrize("uri", ["gs://bucket", "file:///x/y", "gs://bucket/quo'te", "gs:///x"])
def test_what_a_token_could_not_be_limited_to_is_refused(uri: str) -> None:
    with pytest.raises(StoreError, match=r"could not be limited|cannot be used in an access rule"):
        mint(TokenService(), uri)


@pytest.fixture
def skewed(tmp_path: Path) -> Iterator[Path]:
    """A service account's key file whose token endpoint says what Google says to a host whose clock is wrong."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            claims = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["assertion"][0].split(".")
            assert json.loads(base64.urlsafe_b64decode(claims[1] + "=="))["iss"] == "aquarat@p.iam"
            said = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            body = json.dumps({"error": "invalid_grant", "error_description": said}).encode()
            self.send_response(400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        path = tmp_path / "key.json"
        account = {"type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": key.decode()}
        account |= {"client_email": "aquarat@p.iam", "token_uri": f"http://127.0.0.1:{server.server_port}/token"}
        path.write_text(json.dumps(account))
        yield path


def test_a_clock_that_is_wrong_is_named_and_no_secret_is(skewed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(skewed))
    with pytest.raises(StoreError, match=r"rejects the time .* clock is wrong: set it \(`timedatectl") as error:
        ArtifactStore.open("gs://some-bucket").latest("x")
    assert "PRIVATE KEY" not in str(error.value)
