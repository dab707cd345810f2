"""The self-test of templates and defaults, which runs before an event needs them."""

import pytest
from hypothesis import given, settings

from renderers import self_test
from renderers.bundle import Customisation
from renderers.errors import GateFailure, TemplateFault
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates
from tests.strategies import render_defaults

BUILT_IN = Templates.built_in()


def with_templates(**sources: str) -> Customisation:
    named = {name.replace("__", "."): text for name, text in sources.items()}
    return Customisation(templates=BUILT_IN.overridden_by(named))


@given(render_defaults())
@settings(max_examples=10)
def test_any_defaults_pass_with_the_built_in_templates(defaults):
    self_test.run(Customisation(defaults))


def test_the_self_test_covers_every_platform():
    tested = {model.serving.platform for model in self_test._every_kind().models}

    assert tested == set(PLATFORMS)


def test_the_self_test_covers_both_clouds_and_a_nested_signature():
    composition = self_test._every_kind()

    assert {model.artifact.uri.partition("/models/")[0] for model in composition.models} == {
        "gs://bucket",
        "s3://bucket",
    }
    assert composition.proxy.signature.document == {
        "inputs": [{"name": "x", "shape": [-1, 3], "scale": 0.5, "of": None}]
    }
    images = {composition.proxy.image, *(model.serving.image for model in composition.models)}
    assert images == {"registry.example.com/proxy:1.0", "registry.example.com/serving:1.0"}


@pytest.mark.parametrize(
    "name", ["tensorflow.yaml", "triton.yaml", "router.yaml", "proxy.yaml", "model_download.yaml"]
)
def test_a_template_that_adds_passes(name):
    text = BUILT_IN.text(name).replace(
        "    networks:\n", "    logging:\n      driver: journald\n    networks:\n"
    )

    self_test.run(Customisation(templates=BUILT_IN.overridden_by({name: text})))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tensorflow.yaml", "    image: <image>\n", ""),
        ("tensorflow.yaml", "image: <image>", "image: other:1"),
        ("triton.yaml", "      - --load-model=<engine_name>\n", ""),
        (
            "resources.yaml",
            "capabilities: [gpu]\n              count: {{ gpu }}",
            "capabilities: [gpu]",
        ),
        ("labels.yaml", "<label_value:{{ label }}>", "x"),
        ("models.map", "{{ port }}", "1"),
        ("header.yaml", "services:\n", "name: other\nservices:\n"),
    ],
)
def test_a_template_that_omits_or_changes_the_composition_is_refused(name, old, new):
    text = BUILT_IN.text(name)
    assert old in text
    own = Customisation(
        self_test_defaults(), BUILT_IN.overridden_by({name: text.replace(old, new)})
    )

    with pytest.raises(GateFailure):
        self_test.run(own)


def self_test_defaults():
    return Customisation().defaults.model_copy(update={"labels": {"team": "vision"}})


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("tensorflow.yaml", "services:\n  s<model_id>s:\n  - a\n b: {{ nothing }}\n", 4),
        ("tensorflow.yaml", "services:\n  s<model_id>s: [\n", 3),
        ("tensorflow.yaml", "", 1),
        ("tensorflow.yaml", "services: 3\n", 1),
        ("tensorflow.yaml", "- a\n", 1),
        ("tensorflow.yaml", "name: x\nservices:\n  a: b\n", 1),
        ("networks.yaml", "\tnetworks:\n", 1),
        ("serving.env", "{{ allotment.disk }}", 1),
    ],
)
def test_a_template_that_is_broken_is_refused_with_its_name_and_line(name, text, line):
    with pytest.raises(TemplateFault) as fault:
        self_test.run(Customisation(templates=BUILT_IN.overridden_by({name: text})))

    assert (fault.value.name, fault.value.line) == (name, line)


TRITON = BUILT_IN.text("triton.yaml")
DOWNLOAD = BUILT_IN.text("model_download.yaml")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.yaml", "{% include 'labels.yaml' %}", "RecursionError"),
        (
            "router.yaml",
            "{% for a in b %}" * 25 + "{% endfor %}" * 25,
            "too many statically nested blocks",
        ),
        ("router.yaml", "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "RecursionError"),
        ("router.yaml", "{{ 'a' * 10 ** 13 }}", "MemoryError"),
        ("triton.yaml", TRITON.replace("shm_size: 1g", "x: 2001-99-99"), "month must be in 1..12"),
        ("triton.yaml", TRITON.replace("shm_size: 1g", "x: !!int abc"), "invalid literal"),
        ("triton.yaml", TRITON.replace("shm_size: 1g", "x: " + "[" * 500), "RecursionError"),
        (
            "triton.yaml",
            TRITON.replace("shm_size: 1g", "x: &a [*a]"),
            "no anchor, no alias and no tag",
        ),
        (
            "triton.yaml",
            TRITON.replace("restart: <", "restart: &a <"),
            "no anchor, no alias and no tag",
        ),
        (
            "triton.yaml",
            TRITON.replace("shm_size: 1g", "x: !!str 1g"),
            "no anchor, no alias and no tag",
        ),
        (
            "triton.yaml",
            TRITON.replace("shm_size: 1g", "x: <modell_id>"),
            "did you mean <model_id>",
        ),
        (
            "triton.yaml",
            TRITON.replace("shm_size: 1g", "x: <zzz>"),
            "<zzz> is not a known placeholder",
        ),
        # Nothing would fill it in this template.
        (
            "model_download.yaml",
            DOWNLOAD.replace("    image:", '    x: "<content_digest>"\n    image:'),
            "<content_digest> is not a known placeholder",
        ),
        ("triton.yaml", "services:\n", "one service"),
        ("triton.yaml", "services:\n  a: {}\n  b: {}\n", "one service"),
    ],
)
def test_an_error_in_a_template_is_reported_as_its_fault(name, text, message):
    with pytest.raises(TemplateFault, match=message):
        self_test.run(Customisation(templates=BUILT_IN.overridden_by({name: text})))


@pytest.mark.parametrize(
    "added",
    [
        "profiles: [off]",
        "scale: 0",
        "network_mode: host",
        "entrypoint: [sh]",
        "extends: {service: a}",
        "build: .",
    ],
)
def test_a_template_that_removes_a_service_is_refused(added):
    own = BUILT_IN.overridden_by(
        {"triton.yaml": TRITON.replace("    shm_size", f"    {added}\n    shm_size")}
    )

    with pytest.raises(GateFailure, match=added.split(":")[0]):
        self_test.run(Customisation(templates=own))
