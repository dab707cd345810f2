"""Evaluates policies of AWS and Google Cloud, as far as deploy/policies uses the two languages.

It is written from their documentation. An explicit Deny wins. All keys of one operator and all
operators of one statement must match. `Null` tests whether a key is absent; `...IfExists` matches
where it is. Any other construct in a template is an error here, never a guess.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.faulty_s3_server import Request

POLICIES = Path(__file__).parents[2] / "deploy" / "policies"
BUCKET, PREFIX, ACCOUNT = "bucket", "team/bundles", "123456789012"
ARN = f"arn:aws:s3:::{BUCKET}"


def filled(name: str) -> str:
    """A template with its placeholders replaced."""
    text = (POLICIES / name).read_text()
    return text.replace("BUCKET", BUCKET).replace("PREFIX", PREFIX).replace("ACCOUNT", ACCOUNT)


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """One request, as a policy sees it."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def asked(request: Request) -> PolicyRequest:
    """What S3 checks for a request of the adapter."""
    names = {
        "PUT": "s3:PutObject",
        "DELETE": "s3:DeleteObject",
        "GET": "s3:GetObject",
        "HEAD": "s3:GetObject",
    }
    if not request.key:
        assert request.method == "GET"
        assert request.query["list-type"] == "2"
        return PolicyRequest(
            "s3:ListBucket", ARN, {f"s3:{name}": request.query[name] for name in ("prefix",)}
        )
    writes = request.method in {"PUT", "DELETE"}
    conditions = {
        f"s3:{name}": request.headers[name]
        for name in ("if-match", "if-none-match")
        if name in request.headers
    }
    return PolicyRequest(
        names[request.method], f"{ARN}/{request.key}", conditions if writes else {}
    )


class AwsPolicies:
    """A principal's own policies and the bucket's, together."""

    def __init__(self, role: str, *own: str) -> None:
        self._principal = f"arn:aws:iam::{ACCOUNT}:role/{role}"
        self._own = [
            statement for name in own for statement in json.loads(filled(name))["Statement"]
        ]
        self._bucket = json.loads(filled("s3-bucket.json"))["Statement"]

    def allows(self, request: PolicyRequest) -> bool:
        """Whether S3 would let the principal do it."""
        context = {**request.context, "aws:PrincipalArn": self._principal}
        effects = {
            statement["Effect"]
            for statement in (*self._own, *self._bucket)
            if _applies(statement, request, context)
        }
        assert effects <= {"Allow", "Deny"}
        return effects == {"Allow"}


def _applies(
    statement: Mapping[str, Any], request: PolicyRequest, context: Mapping[str, str]
) -> bool:
    assert set(statement) <= {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
    assert statement.get("Principal", "*") == "*"
    return (
        request.action in _many(statement["Action"])
        and any(_like(request.resource, pattern) for pattern in _many(statement["Resource"]))
        and all(
            _holds(operator, keys, context)
            for operator, keys in statement.get("Condition", {}).items()
        )
    )


def _holds(operator: str, keys: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    match operator:
        case "Null":
            return all(
                (key not in context) == {"true": True, "false": False}[value]
                for key, value in keys.items()
            )
        case "StringLikeIfExists":
            return all(
                key not in context or _like(context[key], value) for key, value in keys.items()
            )
        case "ArnNotLike":
            return all(not _like(context[key], value) for key, value in keys.items())
    raise AssertionError(f"the evaluator does not know {operator}")


def _many(value: str | Sequence[str]) -> Iterable[str]:
    return [value] if isinstance(value, str) else value


def _like(text: str, pattern: str) -> bool:
    return (
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL)
        is not None
    )


class GcsRole:
    """A principal with the creator's role, and the remover's under a condition."""

    def __init__(self, condition: str | None) -> None:
        self._free = set(yaml.safe_load(filled("gcs-role-creator.yaml"))["includedPermissions"])
        self._bound = set(yaml.safe_load(filled("gcs-role-remover.yaml"))["includedPermissions"])
        self._condition = (
            None if condition is None else yaml.safe_load(filled(condition))["expression"]
        )

    def allows(self, operation: str, key: str) -> bool:
        """Whether Cloud Storage would let the principal do what an operation of the store's port
        asks for.
        """
        needed = {
            "get": {"storage.objects.get"},
            "scan": {"storage.objects.list"},
            "folders": {"storage.objects.list"},
            "create": {"storage.objects.create"},
            "replace": {"storage.objects.create", "storage.objects.delete"},
            "delete": {"storage.objects.delete"},
        }[operation]
        granted = self._free | (
            self._bound if self._condition and _true(self._condition, key) else set()
        )
        return needed <= granted


def _true(expression: str, key: str) -> bool:
    """The part of CEL that the templates use: && || ( ) and three functions of resource.name."""
    name = f"projects/_/buckets/{BUCKET}/objects/{key}"

    def answer(found: re.Match[str]) -> str:
        question, text, compared = found["question"], found["text"], found["compared"]
        match question:
            case "startsWith":
                return str(name.startswith(text))
            case "endsWith":
                return str(name.endswith(text))
        assert compared is not None
        before, _, after = text.partition("{")
        assert after.endswith("}")
        return str(name.partition(before)[2] != "")

    atom = r'resource\.name\.(?P<question>startsWith|endsWith|extract)\("(?P<text>[^"]*)"\)(?P<compared> != "")?'
    reduced = re.sub(atom, answer, expression).replace("&&", " and ").replace("||", " or ")
    assert re.fullmatch(r"(True|False|and|or|[()\s])*", reduced), reduced
    return bool(eval(reduced))
