"""Model files: whole, durable, and named by what they hold."""

import hashlib

import pytest

from edged.errors import Corrupt
from edged.storage import models


def test_a_model_appears_whole_and_a_damaged_one_is_noticed_and_can_be_put_again(store, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    sha = models.put_model(store, tmp_path / "m.onnx")
    assert sha == hashlib.sha256(b"model").hexdigest() == models.put_model(store, b"model")
    path = models.model_path(store, sha)
    assert path.read_bytes() == b"model"
    path.write_bytes(b"modeL")
    with pytest.raises(Corrupt):
        models.model_path(store, sha)
    models.put_model(store, b"model")
    assert models.read_model(store, sha) == b"model"
