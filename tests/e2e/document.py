"""The API's document, and whether an answer is what it promises."""

import json
import re
from pathlib import Path

from jsonschema import Draft202012Validator, FormatChecker
from samcli.yamlhelper import yaml_parse

DOCUMENT = yaml_parse((Path(__file__).parents[2] / "infra/openapi.yaml").read_text())
FORMATS = FormatChecker(formats=())


@FORMATS.checks("date-time")
def is_date_time(value) -> bool:
    # Of anything but text, the type says that it is wrong.
    return not isinstance(value, str) or bool(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value))


def routes() -> list[tuple[str, str]]:
    """Every route, as method and path."""
    return [(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item]


def filled(path: str) -> str:
    """A route's path with names that nothing has."""
    return re.sub(r"\{\w+\}", "nobody", path)


class Document:
    """Knows for each route which answers there are."""

    def __init__(self):
        self._components = {"schemas": {name: json_schema(it) for name, it in DOCUMENT["components"]["schemas"].items()}}
        self._paths = {re.compile(re.sub(r"\{\w+\}", "[^/?]+", path) + r"(\?.*)?"): item
                       for path, item in DOCUMENT["paths"].items()}

    def check(self, method: str, path: str, status: int, headers: dict[str, str], text: str):
        """Fails where the document doesn't know the answer's status, type, header or body."""
        said = f"{method} {path} answered {status} {headers.get('content-type')}: {text}"
        item, = (it for pattern, it in self._paths.items() if pattern.fullmatch(path))
        answers = item[method.lower()]["responses"]
        assert str(status) in answers, f"undocumented status: {said}"
        answer = answers[str(status)]

        for name in ("Location", "Retry-After"):
            assert name.lower() not in headers or name in answer.get("headers", {}), f"undocumented {name}: {said}"
        if status == 403:
            # API Gateway's own answer, which the emulator gives in another form.
            return
        if "content" not in answer:
            assert text == "", f"undocumented body: {said}"
            return
        kind = headers["content-type"].split(";")[0]
        assert kind in answer["content"], f"undocumented type: {said}"
        schema = {**json_schema(answer["content"][kind]["schema"]), "components": self._components}
        errors = [f"{it.json_path}: {it.message}" for it in
                  Draft202012Validator(schema, format_checker=FORMATS).iter_errors(json.loads(text))]
        assert not errors, f"{errors} where {said}"


def json_schema(schema):
    """A schema of OpenAPI 3.0 as JSON Schema. Stricter than for a client: nothing undocumented may be in an answer."""
    if isinstance(schema, list):
        return [json_schema(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: {name: json_schema(it) for name, it in value.items()} if key == "properties" else json_schema(value)
            for key, value in schema.items() if key not in ("nullable", "example", "description")}
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made
