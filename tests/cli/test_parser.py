"""The grammar, and that every command of the help has a function."""

from __future__ import annotations

import pytest

from sudocode_coordination.cli.commands import _lease_arguments
from sudocode_coordination.cli.parser import build_parser
from sudocode_coordination.cli.run import command, run
from sudocode_coordination.errors import UsageError

EVERY = [
    "start --agent-id a --capabilities x,y --branch b --remote r --listen /ip4/127.0.0.1/tcp/0 --set max_peers=3 --foreground",
    "stop",
    "status",
    "peers",
    "lease a b --type file --priority -3 --ttl 5m --shared --wait 1s --note n",
    "renew a --ttl 1m",
    "release a b",
    "release --all",
    "leases --all",
    "check a --issue 1 --spec s",
    "work set --issue 1 --issue 2 --spec s --file f --status s --meta k=v",
    "work clear",
    "work show",
    "issue update 1 --title t --status s --set k=1 --draft",
    "issue show",
    "spec update p --title t",
    "spec show p",
    "draft list",
    "draft publish --all",
    "events --follow",
    "doctor",
    "demo",
    "mcp --repo x",
    "bridge --port 1234 --origin http://localhost:5173",
]


@pytest.mark.parametrize("line", EVERY)
def test_every_command_parses_and_has_a_function(line: str) -> None:
    args = build_parser().parse_args([*line.split(), "--json", "--agent", "me"])
    assert args.json is True
    assert args.agent == "me"
    assert callable(command(args.run))


def test_common_options_stand_anywhere() -> None:
    args = build_parser().parse_args(["--json", "--agent", "me", "status"])
    assert (args.json, args.agent) == (True, "me")
    assert not hasattr(build_parser().parse_args(["status"]), "json")


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate",
        "lease --priority x a",
        "lease --priority 1000001 a",
        "lease --ttl never a",
        "bridge --port 65536",
        "bridge --port -1",
        "bridge --write",
        "work",
        "stat",
        "leases --al",
        "events --last 1001",
        "intit",
    ],
)
def test_usage_errors(line: str) -> None:
    with pytest.raises(UsageError):
        build_parser().parse_args(line.split())


@pytest.mark.parametrize(
    ("resources", "wait", "expected"),
    [
        (["a"], None, (["a"], None)),
        (["a"], "", (["a"], 0)),
        (["a"], "10m", (["a"], 600_000)),
        (["a"], "0s", (["a"], None)),
        ([], "src/a.py", (["src/a.py"], 0)),
        (["b"], "src/a.py", (["b", "src/a.py"], 0)),
    ],
)
def test_wait_without_duration_before_a_resource(
    resources: list[str], wait: str | None, expected: tuple[list[str], int | None]
) -> None:
    assert _lease_arguments(resources, wait) == expected


@pytest.mark.parametrize("wait", ["-5", "10min", "5.5.5s", "1w"])
def test_what_looks_like_a_duration_is_no_file(wait: str) -> None:
    with pytest.raises(UsageError, match="is no duration"):
        _lease_arguments(["a"], wait)


def test_lease_needs_a_resource() -> None:
    with pytest.raises(UsageError):
        _lease_arguments([], None)


@pytest.mark.parametrize("line", ["help", "--help", "help lease", "help work set", "--version", "lease --help"])
def test_help_is_no_failure(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert not err


def test_help_of_a_command_names_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "lease"]) == 0
    out = capsys.readouterr().out
    assert "--wait" in out
    assert "examples:" in out


def test_no_command_shows_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "coord start" in capsys.readouterr().err


def test_errors_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lease", "--priority", "x", "a"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "\nhint: " in err
    assert run(["lease", "--json", "--priority", "x", "a"]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    import json

    error = json.loads(out)["error"]
    assert error["code"] == "usage"
    assert set(error) == {"code", "message", "hint"}


def test_prog_of_sudocode(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help"], "sudocode coord") == 0
    assert "sudocode coord lease src/auth.py" in capsys.readouterr().out
