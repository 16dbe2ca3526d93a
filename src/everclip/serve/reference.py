"""`/docs`: the interface as one page, made from its OpenAPI schema; no script, nothing loaded from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = """
body { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; font: 16px/1.5 system-ui, sans-serif;
       color-scheme: light dark; }
h2 { margin-top: 2.5rem; font-size: 1.15rem; } h2 b { display: inline-block; min-width: 5rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .3rem .5rem;
       border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
code, pre { font-size: .9rem; } pre { overflow-x: auto; padding: .6rem;
       background: color-mix(in srgb, currentColor 7%, transparent); }
"""


def reference(schema: Mapping[str, Any]) -> str:
    """The page.

    Args:
        schema: as `FastAPI.openapi` gives it.
    """
    about = schema["info"]
    parts = [
        _operation(method, path, operation, schema)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    title = f"{about['title']} {about['version']}"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: interface</title>\n<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        f'<p>{escape(about.get("summary", ""))} For programs: <a href="openapi.json">openapi.json</a>. '
        'To use it by hand: <a href=".">the page</a>. A refusal is <code>{"error": "one sentence"}</code>.</p>\n'
        + "".join(parts)
        + "</html>\n"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    rows = [
        (each["name"], each["in"], each["schema"], each.get("required", False), each.get("description", ""))
        for each in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        fields = _resolved(content["schema"], schema)
        required = fields.get("required", ())
        rows += [
            (name, kind, field, name in required, field.get("description", ""))
            for name, field in fields.get("properties", {"(the body)": fields}).items()
        ]
    lock = " With the token, where there is one." if operation.get("security") else ""
    return (
        f"<h2><b>{escape(method.upper())}</b> <code>{escape(path)}</code></h2>\n"
        f"<p>{escape(operation.get('description', operation.get('summary', '')))}{lock}</p>\n"
        + _table(("parameter", "in", "type", "default", ""), [_parameter(*row) for row in rows])
        + "".join(_answer(status, answer, schema) for status, answer in operation.get("responses", {}).items())
    )


def _parameter(name: str, place: str, field: Mapping[str, Any], required: bool, text: str) -> tuple[str, ...]:
    default = "required" if required else json.dumps(field.get("default"))
    return name, place, _type(field), default, text


def _answer(status: str, answer: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if not status.startswith("2"):
        return ""
    shapes = [content["schema"] for content in answer.get("content", {}).values()]
    rows = [row for shape in shapes for row in _fields(shape, schema, "")]
    return f"<h3>Answer {escape(status)}</h3>\n" + _table(("field", "type", ""), rows) if rows else ""


def _fields(shape: Mapping[str, Any], schema: Mapping[str, Any], within: str) -> list[tuple[str, ...]]:
    """Fields of an answer, and those of what it holds, as NAME.NAME."""
    rows: list[tuple[str, ...]] = []
    for name, field in _resolved(shape, schema).get("properties", {}).items():
        rows.append((f"{within}{name}", _type(field), field.get("description", "")))
        inner = field.get("items", field)
        if "$ref" in inner:
            rows += _fields(inner, schema, f"{within}{name}{'[]' if 'items' in field else ''}.")
    return rows


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if "items" in field:
        return f"list of {_type(field['items'])}"
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if field.get("format") == "binary" or "contentMediaType" in field:
        return "file"
    return str(field.get("type", "any"))


def _resolved(shape: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in shape:
        return shape
    found: Mapping[str, Any] = schema["components"]["schemas"][shape["$ref"].rpartition("/")[2]]
    return found


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table><thead><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr></thead>\n{lines}</table>\n"
