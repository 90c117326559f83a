"""What is never shared of uncommitted work."""

from __future__ import annotations

import pytest

from sudocode_coordination.core.secrecy import Denial, looks_secret


@pytest.mark.parametrize(
    "path",
    [
        *(
            ".env",
            "app/.env.local",
            "prod.ENV",
            "tls/server.pem",
            "a/id_ed25519",
            "id_rsa.pub",
            ".aws/credentials",
            "x/.ssh/config",
        ),
        *(
            ".env~",
            "app/#.env#",
            "a/.#.env",
            ".env-prod",
            ".envs/local/db",
            "server.key.bak",
            "id_rsa.old~",
            "k.pem.swp",
            "x.key_backup2",
        ),
        *("secrets/a.txt", "deploy/my-secret-values.yaml", "infra/prod.tfvars", "gcp/service-account-prod.json", "data.sqlite3"),
    ],
)
def test_names_that_tell_of_secrets_are_denied(path: str) -> None:
    assert Denial().denies(path)


@pytest.mark.parametrize(
    "path", ["src/env.py", "src/keys.py", "docs/secret-santa.md", "id.txt", "credentials_test.py", "a/pem.go", "a.py~", "#", "~"]
)
def test_other_names_are_not(path: str) -> None:
    assert not Denial().denies(path)


def test_a_clone_can_deny_more() -> None:
    denial = Denial(["*.sql", "vault/*", "Plan.md"])
    assert [denial.denies(path) for path in ("db/dump.SQL", "vault/a/b", "docs/plan.md")] == [True, True, True]
    assert [denial.denies(path) for path in ("other/vault/a", "src/a.py")] == [False, False], "with a slash: the whole path"


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "aws = 'AKIA" + "A1B2" * 4 + "'",
        "token: ghp_" + "a" * 36,
        "OPENAI=sk-" + "x" * 40,
        "DATABASE_URL=postgres://app:hunter2@db/prod",
        "Bearer eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + ".c",
        'db_password = "correct-horse"',
        "password = 'greatest-of-all'",
        "'client_secret': 'a8f5f167f44f'",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYz9",
        "  POSTGRES_PASSWORD: 8f14e45fceea167a5a36",
        "# export API_KEY=123e4567-e89b-12d3-a456-426614174000\r",
        "x" * 40_000,
    ],
)
def test_text_that_looks_like_a_key_is_found(text: str) -> None:
    assert looks_secret("first line\n" + text + "\n")


@pytest.mark.parametrize(
    "text",
    [
        "password = os.environ['DB_PASSWORD']",
        "secret = get_secret(name)",
        'api_key: "${API_KEY}"',
        "password = 'changeme'",
        "password = 'test-password'",
        "https://example.org/path?token=none",
        "secret = settings_of_version_2",
        "api_key: 0",
        "task-" + "a" * 30,
        "def api_key(self) -> str: ...",
    ],
)
def test_code_that_only_speaks_of_keys_is_shared(text: str) -> None:
    assert not looks_secret(text)


def test_the_inside_of_a_private_key_is_found_where_its_begin_has_not_changed() -> None:
    """New lines alone are shared: a key that is replaced keeps its first and its last line."""
    body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"
    begin, end = "  -----BEGIN PRIVATE KEY-----\n", "  -----END PRIVATE KEY-----\n"
    assert looks_secret(body, f"tls.key: |\n{begin}  {body}{end}")
    assert looks_secret(f"  {body}", f"{begin}  {body}{end}")
    assert not looks_secret(body, body)
    assert not looks_secret("replicas: 3\n", f"replicas: 3\n{begin}  {body}{end}")


@pytest.mark.parametrize(
    "unit",
    [
        "password=A1",
        "\npassword:a1",
        "pass",
        "secret" + "a" * 20,
        "-----BEGIN ",
        "A1" * 16 + "\n",
        "://a:",
        "secret",
        "eyJ",
        "ghp_",
        "SG.",
        "a",
        ".",
        "sk-",
    ],
)
def test_searching_takes_steps_in_proportion_to_the_text(unit: str) -> None:
    """No pattern may go back over what it has read: told by the answer for the longest text, which comes at all."""
    text = (unit * 32_768)[: 32 << 10]
    assert looks_secret(text, text * 32) in (True, False)
