"""Image names: mirrors, and the folders for which a pull needs permission."""

import pytest

from renderers import images

MIRRORS = {
    "docker.io": "mirror.example.com/hub",
    "registry.example.com:5000": "mirror.example.com",
    "localhost": "a.b:1/x",
    "registry:5000": "mirror.example.com/r",
}


@pytest.mark.parametrize(
    ("image", "pulled"),
    [
        ("nginx", "mirror.example.com/hub/library/nginx"),
        ("nginx:1.28", "mirror.example.com/hub/library/nginx:1.28"),
        ("tensorflow/serving:2", "mirror.example.com/hub/tensorflow/serving:2"),
        ("docker.io/nginx:1", "mirror.example.com/hub/library/nginx:1"),
        ("index.docker.io/nginx:1", "mirror.example.com/hub/library/nginx:1"),
        ("index.docker.io/a/b:1", "mirror.example.com/hub/a/b:1"),
        ("FOO/bar:1", "FOO/bar:1"),
        ("docker.io/library/nginx:1", "mirror.example.com/hub/library/nginx:1"),
        (
            "registry.example.com:5000/team/a@sha256:" + "0" * 64,
            "mirror.example.com/team/a@sha256:" + "0" * 64,
        ),
        ("localhost/a:1", "a.b:1/x/a:1"),
        ("registry:5000/a:1", "mirror.example.com/r/a:1"),
        ("registry.example.com/team/a:1", "registry.example.com/team/a:1"),
    ],
)
def test_a_mirror_replaces_the_registry_that_docker_would_use(image, pulled):
    assert images.pulled_from(image, MIRRORS) == pulled


@pytest.mark.parametrize(
    "image", ["nginx", "a/b:1", "docker.io/library/nginx:1", "r.example.com/x"]
)
def test_without_a_mirror_an_image_is_unchanged(image):
    assert images.pulled_from(image, {}) == image


@pytest.mark.parametrize(
    ("image", "folder"),
    [
        ("nginx:1", "docker.io/library"),
        ("a/b:1", "a"),
        ("r.example.com/x/y@sha256:" + "0" * 64, "r.example.com/x"),
    ],
)
def test_a_pull_needs_permission_for_the_folder_of_the_image(image, folder):
    assert images.folder(image) == folder
