import json
from pathlib import Path

import pytest

from vol3d.config import Config, json_schema, load_config, parse_config
from vol3d.errors import ConfigError
from vol3d.workflows.settings import parse_duration, parse_memory, settle

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    assert isinstance(load_config(path), Config)
    assert len(CONFIGS) == 5


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"trainin": {}}, "unknown key 'trainin'. Did you mean 'training'"),
        ({"training": {"learning_rat": 1}}, "unknown key 'training.learning_rat'. Did you mean 'learning_rate'"),
        ({"network": {"encodr": 1}}, "Did you mean 'encoder'"),
        ({"network": {"zzzz": 1}}, "Known keys: dimensions, kernels"),
        ({"labels": {"classes": [{"code": 1, "name": "a", "colr": 2}]}}, "unknown key 'labels.classes.0.colr'"),
        ({"training": {"iterations": -1}}, r"training.iterations: .*greater than or equal to 1, found '-1'"),
        ({"training": {"iterations": 5, "time_budget_s": 3}}, "give `iterations` or `time_budget_s`, not both"),
        ({"labels": {"dense": True, "annotated_slices": {"z": [1]}}}, "not both"),
        ({"preprocess": {"normalization": "window"}}, "goes with"),
        ({"network": {"pooling": [[2, 2, 2]]}}, "`pooling` needs 3 entries for 4 levels, found 1"),
        ({"network": {"kernels": [[2, 2, 2]] * 4}}, "odd"),
        ({"network": {"dimensions": 2, "kernels": [[3, 3, 3]] * 4}}, "one per axis"),
    ],
)
def test_mistakes_are_named_with_their_path(mapping, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(mapping, source="vol3d.yaml")


def test_overrides_reach_into_sections():
    config = parse_config({}, ("training.iterations=7", "network.encoder=[[4, 4], [8, 8]]", "labels.unlabeled=3"))
    assert config.training.iterations == 7
    assert config.network is not None
    assert config.network.encoder == ((4, 4), (8, 8))
    assert config.labels.unlabeled == (3,)


@pytest.mark.parametrize("text", ["training.iterations", "=3", "a..b=1", "training.seed=[", "training.seed.x=1"])
def test_malformed_overrides_are_refused(text):
    with pytest.raises(ConfigError, match="--set"):
        parse_config({"training": {"seed": 1}}, (text,))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "not valid YAML"), (b"- 1", "expected keys and values"), (b"\xff\xfe\x00", "cannot be read as a text")],
)
def test_files_that_are_no_config_are_named(tmp_path, content, message):
    path = tmp_path / "vol3d.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "vol3d.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "text", ["training: !!python/object/apply:os.system ['touch pwned']", "training: {device: '${oc.env:HOME}'}"]
)
def test_r34_expressions_in_a_config_are_inert(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.yaml"
    path.write_text(text)
    try:
        config = load_config(path)
    except ConfigError:
        pass
    else:
        assert config.training.device == "${oc.env:HOME}"
    assert not (tmp_path / "pwned").exists()


def test_the_schema_for_editors_is_up_to_date():
    stored = json.loads((CONFIGS[0].parent / "vol3d.schema.json").read_text())
    assert stored == json_schema(), "write it again: make schema"


def test_an_empty_file_is_all_defaults_and_json_survives(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_config(path) == Config()
    assert parse_config(json.loads(json.dumps(Config().to_json()))) == Config()
    assert "training" in json_schema()["properties"]


def test_options_win_over_the_file_and_paths_are_relative_to_it(tmp_path):
    path = tmp_path / "sub" / "run.yaml"
    path.parent.mkdir()
    path.write_text("data: {images: [a.nii, /b.nii]}\ntraining: {iterations: 5, seed: 3}\n")
    config = settle(path, {"training": {"time_budget_s": 60, "iterations": None, "seed": None}}, ("training.seed=4",))
    assert config.data.images == (str(path.parent / "a.nii"), "/b.nii")
    assert (config.training.iterations, config.training.time_budget_s, config.training.seed) == (None, 60, 4)
    assert settle(config, {}, ()) == config
    assert settle({"training": {"seed": 9}}, {}, ()).training.seed == 9


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (".5 min", 30)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "gb"), [("8", 8), ("8GB", 8), ("500MB", 0.5), ("1tb", 1000)])
def test_memory(text, gb):
    assert parse_memory(text) == gb


@pytest.mark.parametrize("text", ["", "ten", "10 parsecs", "-3m", "0"])
def test_bad_quantities_say_what_was_expected(text):
    with pytest.raises(ConfigError, match="expected a duration such as"):
        parse_duration(text)
    with pytest.raises(ConfigError, match="expected an amount of memory"):
        parse_memory(text)
