import pytest
import yaml

from microtome.config import ExtractConfig, InspectConfig, RunConfig, TissueConfig, read_bytes, resolve
from microtome.errors import ConfigError


def test_later_layers_win():
    config = resolve(RunConfig, {"n_clusters": 4, "seed": 3}, {"n_clusters": 5})
    assert (config.n_clusters, config.seed) == (5, 3)


def test_unknown_key_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no setting 'tile_pix'.*Did you mean 'tile_px'"):
        resolve(RunConfig, {"tile_pix": 224})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"n_clusters": 1}, "n_clusters"),
        ({"min_tissue": 1.5}, "min_tissue"),
        ({"memory": "lots"}, "memory"),
        ({"memory": "0"}, "memory"),
        ({"memory": "-1G"}, "memory"),
        ({"window": "5,1"}, "window"),
        ({"window": "5"}, "window"),
        ({"channels": "0,1"}, "channels"),
        ({"channels": ""}, "channels"),
        ({"level": 1, "tile_mpp": 0.5}, "level"),
        ({"override_mpp": True}, "override_mpp"),
        ({"mpp": -0.5}, "mpp"),
        ({"tile_px": 0}, "tile_px"),
        ({"reader": "magic"}, "reader"),
        ({"workers": 0}, "workers"),
    ],
)
def test_a_bad_value_is_named(values, named):
    with pytest.raises(ConfigError, match=named):
        resolve(RunConfig, values)


def test_lists_of_a_yaml_file_say_the_same_as_commas():
    listed = resolve(RunConfig, yaml.safe_load("channels: [2, 0, 1]\nwindow: [0, 4095]"))
    written = resolve(RunConfig, {"channels": "2,0,1", "window": "0,4095"})
    assert listed.channel_names == written.channel_names == ("2", "0", "1")
    assert listed.window_range == written.window_range == (0.0, 4095.0)


def test_resolved_settings_survive_a_round_trip_through_yaml():
    config = resolve(RunConfig, {"slides": ["a.svs"], "tissue_parameters": {"sigma": 2.0}, "mpp": 0.25})
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert resolve(RunConfig, yaml.safe_load(text)) == config


def test_stages_take_only_their_own_settings():
    with pytest.raises(ConfigError, match="n_clusters"):
        resolve(ExtractConfig, {"n_clusters": 4})
    with pytest.raises(ConfigError, match="encoder"):
        resolve(TissueConfig, {"encoder": "texture"})


def test_the_settings_of_a_run_can_be_inspected():
    """A file written for ``run`` is taken by ``inspect`` as it is."""
    assert set(RunConfig.model_fields) <= set(InspectConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2K", 2048), ("512M", 512 << 20), ("1.5GiB", 3 << 29), ("2gb", 2 << 30)]
)
def test_sizes(text, size):
    assert read_bytes(text) == size


def test_every_setting_is_documented():
    for kind in InspectConfig.__mro__:
        own = getattr(kind, "__annotations__", {}) if kind.__module__.startswith("microtome.config") else {}
        for name in own:
            if not name.startswith("_") and name != "model_config":
                assert f"        {name}: " in (kind.__doc__ or ""), (
                    f"{kind.__name__}.{name} has no line in its docstring"
                )
