"""Names of models to those who answer for them."""

import pytest

from vlm3_ros.config import Config, one_checkpoint
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.factory import fingerprints, models_for


def test_plugin_answers_for_names_of_its_scheme():
    config = Config().updated(one_checkpoint("test:doubles:slow:0"))
    models_for(config).close()
    assert fingerprints(config) == {}


def test_settings_alone_run_no_code(tmp_path, monkeypatch):
    """Without the plug-in such a name is a checkpoint that is not there, whatever stands in it."""
    monkeypatch.setattr("vlm3_ros.vlm.factory._plugins", {})
    monkeypatch.setenv("VLM3_PLUGINS", "")
    with pytest.raises(ModelError, match="checkpoint"):
        models_for(Config().updated(one_checkpoint(f"test:os:system:touch {tmp_path / 'ran'}")))
    assert not (tmp_path / "ran").exists()


def test_plugin_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("VLM3_PLUGINS", "no_such_module")
    with pytest.raises(ModelError, match="VLM3_PLUGINS names 'no_such_module'"):
        models_for(Config())
