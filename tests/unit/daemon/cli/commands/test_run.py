"""`rebundle run`: refuses to start with faulty templates."""


def test_faulty_templates_stop_the_start_before_anything_is_created(
    tmp_path, rebundle, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/models.map").write_text("{% if %}")
    monkeypatch.setenv("REBUNDLE_TEMPLATES", "own")

    result = rebundle("run", "--listen", "127.0.0.1:0")

    assert result.code == 2
    assert "own/models.map:1: templates: Expected an expression" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
