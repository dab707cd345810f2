"""`rebundle config`: checks and shows settings, and prints schema and built-in templates."""

import json

from renderers.template_set import Templates


def test_check_reports_every_problem_with_its_source(tmp_path, rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_HTTP__LISTEN", "nowhere")
    (tmp_path / "rebundle.toml").write_text('[journal]\npaht = "x"\n[log]\nlevel = "loud"\n')

    result = rebundle("config", "check", "--config", tmp_path / "rebundle.toml")

    assert result.code == 2
    assert "3 problems" in result.err
    assert "environment REBUNDLE_HTTP__LISTEN" in result.err
    assert "rebundle.toml:2" in result.err
    assert "rebundle.toml:4" in result.err


def test_check_of_valid_settings_succeeds(rebundle):
    assert rebundle("config", "check", "-o", "json").json["ok"] is True


def test_show_names_the_source_of_each_value_and_masks_secrets(bucket, rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_HTTP__TOKEN", "very-secret-token-0123456789")

    result = rebundle("config", "show", "--listen", "127.0.0.1:9", "-o", "json")

    settings = result.json["settings"]
    assert settings["http.listen"] == {"value": "127.0.0.1:9", "source": "flag --listen"}
    assert settings["bucket"] == {"value": str(bucket), "source": "environment REBUNDLE_BUCKET"}
    assert settings["log.level"]["source"] == "default"
    assert "very-secret" not in result.out + rebundle("config", "show").out


def test_the_schema_is_a_json_schema_of_the_file(rebundle):
    schema = json.loads(rebundle("config", "schema").out)

    assert {"bucket", "http", "journal", "render"} <= set(schema["properties"])


def test_a_faulty_setting_stops_every_command_with_a_usage_error(rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_BUCKET", "ftp://nowhere")

    assert rebundle("scopes").code == 2


def test_check_reads_the_templates_of_every_scope_and_reports_which_are_replaced(
    tmp_path, rebundle
):
    own = tmp_path / "own"
    own.mkdir()
    (own / "header.yaml").write_text("# Ours.\nservices:\n")
    (tmp_path / "rebundle.toml").write_text(f'[scopes."a/b"]\ntemplates = "{own}"\n')

    fine = rebundle("config", "check", "--config", tmp_path / "rebundle.toml")
    (own / "modles.map").touch()
    faulty = rebundle("config", "check", "--config", tmp_path / "rebundle.toml")

    assert "templates replaced for a/b: header.yaml" in fine.out
    assert faulty.code == 2
    assert f"{own}/modles.map:1: scopes.a/b.templates: is not the name of a template" in faulty.err


def test_the_schema_describes_the_settings_of_a_scope(rebundle):
    described = json.loads(rebundle("config", "schema").out)

    scope = described["properties"]["scopes"]["additionalProperties"]["$ref"].rpartition("/")[2]
    assert set(described["$defs"][scope]["properties"]) == {"render", "templates"}
    assert described["properties"]["templates"]["description"]


def test_a_built_in_template_is_printed_byte_for_byte(rebundle):
    assert rebundle("config", "template", "router.yaml").out == Templates.built_in().text(
        "router.yaml"
    )


def test_without_a_name_the_templates_are_listed(rebundle):
    listed = rebundle("config", "template").out.splitlines()

    assert {"router.yaml", "README.md"} < set(listed)
    assert [rebundle("config", "template", name).code for name in listed] == [0] * len(listed)


def test_a_template_that_does_not_exist_is_a_usage_error(rebundle):
    result = rebundle("config", "template", "../model.py")

    assert result.code == 2
    assert "lists the templates" in result.err
