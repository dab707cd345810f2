"""Mutable references are found, once each, and refused if the setting requires it."""

import pytest

from renderers.composition import Composition, RenderDefaults
from renderers.pinning import Movable, Unpinned, movable, require
from tests.builders import make_composition, make_model

DIGEST = "@sha256:" + "0f" * 32
PINNED = RenderDefaults(
    download_image=f"r.example.com/download{DIGEST}", router_image=f"r.example.com/nginx:1{DIGEST}"
)


def composition(
    *images: str,
    digest: str | None = "sha256:" + "ab" * 32,
    proxy: str = f"p.example.com/p{DIGEST}",
):
    base = make_composition(1)
    models = tuple(
        make_model(
            str(101 + at),
            serving={"image": image},
            artifact={"uri": f"s3://models/{101 + at}", "digest": digest},
        )
        for at, image in enumerate(images)
    )
    return Composition(
        bundle=base.bundle, models=models, proxy=base.proxy.model_copy(update={"image": proxy})
    )


def test_references_by_digest_are_not_mutable():
    pinned = composition(f"r.example.com/serving{DIGEST}", f"r.example.com/serving:2{DIGEST}")

    assert movable(pinned, PINNED) == ()
    require(pinned, PINNED)


def test_every_image_by_tag_is_reported_once_with_its_users():
    by_tag = composition(
        "r.example.com/serving:2", "r.example.com/serving", "r.example.com/serving:2", proxy="p:1"
    )
    found = movable(by_tag, RenderDefaults(download_image="rclone/rclone:1", router_image="p:1"))

    assert [(item.kind, item.name, item.used_by) for item in found] == [
        ("image", "p:1", ("router", "proxy")),
        ("image", "r.example.com/serving", ("model 102",)),
        ("image", "r.example.com/serving:2", ("model 101", "model 103")),
        ("image", "rclone/rclone:1", ("download",)),
    ]


def test_an_artifact_without_a_digest_may_change():
    found = movable(composition(f"r.example.com/serving{DIGEST}", digest=None), PINNED)

    assert [str(item) for item in found] == ["artifact s3://models/101 (model 101)"]


def test_images_come_before_artifacts_each_by_name():
    found = movable(composition("z.example.com/b:1", "z.example.com/a:1", digest=None), PINNED)

    assert [item.name for item in found] == [
        "z.example.com/a:1",
        "z.example.com/b:1",
        "s3://models/101",
        "s3://models/102",
    ]


@pytest.mark.parametrize(
    ("used_by", "text"),
    [
        (("proxy",), "p:1 (proxy)"),
        (("a", "b"), "p:1 (a and 1 more)"),
        (("a", "b", "c"), "p:1 (a and 2 more)"),
    ],
)
def test_the_users_of_an_image_are_counted(used_by, text):
    assert str(Movable("image", "p:1", used_by)) == f"image {text}"


@pytest.mark.parametrize(("number", "more"), [(1, ""), (5, ""), (6, " and 1 more")])
def test_a_refusal_names_at_most_five(number, more):
    found = tuple(Movable("image", f"i:{index}", ("proxy",)) for index in range(number))
    named = ", ".join(f"image i:{index} (proxy)" for index in range(min(number, 5)))

    assert str(Unpinned(found)) == (
        f"not pinned by digest: {named}{more}; the setting publish.pinning = require needs a digest for each"
    )


def test_a_refusal_names_the_first_few_and_the_setting():
    many = composition(*(f"r.example.com/serving:{n}" for n in range(7)))

    with pytest.raises(
        Unpinned, match=r"serving:0 \(model 101\).* and 2 more; the setting publish\.pinning"
    ) as refusal:
        require(many, PINNED)
    assert len(refusal.value.found) == 7
