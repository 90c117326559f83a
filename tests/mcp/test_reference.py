"""The tools as a client lists them, and `docs/mcp.md`, which has each of them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from mcp import Client
from mcp.types import Tool
from tests.docs.blocks import ROOT

from sudocode_coordination.mcp.link import Link
from sudocode_coordination.mcp.server import build_server, slim

DOCUMENT = (ROOT / "docs" / "mcp.md").read_text("utf-8")
MAX_TOOLS = 10
MAX_INPUT_BYTES = 10_000
"""Of the names, descriptions and inputs of all tools: they are in the agent's context all the time."""


async def _list() -> tuple[list[Tool], list[str]]:
    async with Client(build_server(Link(None, None))) as client:
        return (await client.list_tools()).tools, [str(one.uri) for one in (await client.list_resources()).resources]


TOOLS, URIS = anyio.run(_list)


def row(tool: Tool) -> str:
    """Its line in the document."""
    required = tool.input_schema.get("required", [])
    arguments = [f"**{name}**" if name in required else name for name in tool.input_schema["properties"] if name != "agent"]
    when = (tool.description or "").split(". ")[0].rstrip(".")
    return f"| `{tool.name}` | {', '.join(arguments)} | {when} |"


def test_there_are_few() -> None:
    assert 0 < len(TOOLS) <= MAX_TOOLS
    assert sum(len(tool.model_dump_json(include={"name", "description", "input_schema"})) for tool in TOOLS) < MAX_INPUT_BYTES


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_each_says_what_it_is_for_and_takes(tool: Tool) -> None:
    assert tool.title
    assert "Call it" in (tool.description or ""), "when an agent should use it"
    hints = tool.annotations
    assert hints is not None
    assert None not in (hints.read_only_hint, hints.idempotent_hint, hints.open_world_hint)
    assert hints.read_only_hint or hints.destructive_hint is not None
    assert tool.output_schema is not None
    for schema in (tool.input_schema, tool.output_schema):
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
    undescribed = [name for name, one in tool.input_schema["properties"].items() if not one.get("description")]
    assert undescribed == []
    assert "agent" in tool.input_schema["properties"]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_the_document_has_its_line(tool: Tool) -> None:
    assert row(tool) in DOCUMENT.splitlines()


def test_the_document_has_no_other_tools_and_all_resources() -> None:
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("| `") and "://" not in line]
    assert len(lines) == len(TOOLS)
    assert [uri for uri in URIS if f"| `{uri}` |" not in DOCUMENT] == []


def test_titles_go_and_fields_named_so_stay() -> None:
    schema: dict[str, Any] = {
        "title": "X",
        "properties": {"title": {"title": "Title", "type": "string"}},
        "anyOf": [{"title": "Y", "type": "null"}],
    }
    assert slim(schema) == {"properties": {"title": {"type": "string"}}, "anyOf": [{"type": "null"}]}
