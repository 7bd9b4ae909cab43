"""The models of these tests say different things about different images, so that a wrong reading of either shows."""

from __future__ import annotations

import hub_models
import numpy as np
import pytest
import zoo_models
from photos import picture

IMAGES = [picture(300, 400, seed) for seed in range(2)]


@pytest.mark.parametrize("name", hub_models.MODELS)
def test_answers_depend_on_the_image(name: str):
    if name in hub_models.CLASSIFIERS:
        first, second = (hub_models.own_probs(name, image) for image in IMAGES)
        assert np.abs(first - second).max() > 0.05
    elif name in hub_models.DETECTORS:
        first, second = (hub_models.own_boxes(name, image, 0.3) for image in IMAGES)
        assert len(first["scores"]) > 3 and len(second["scores"]) > 3
        assert abs(first["boxes_xyxy"][0] - second["boxes_xyxy"][0]).max() > 1
    elif name in hub_models.SEGMENTERS:
        first, second = (hub_models.own_ids(name, image, (30, 40)) for image in IMAGES)
        assert (first != second).mean() > 0.1 and len(np.unique(first)) > 1
    else:
        first, second = (hub_models.own_depth(name, image, (30, 40)) for image in IMAGES)
        assert np.abs(first - second).mean() > 0.02 * first.mean() and first.std() > 0.02 * first.mean()


def test_so_do_those_of_timm_and_torchvision():
    first, second = (zoo_models.timm_probs(image) for image in IMAGES)
    assert np.abs(first - second).max() > 0.05
    first, second = (zoo_models.torchvision_answer(zoo_models.CLASSIFIER, image)["probs"] for image in IMAGES)
    assert np.abs(first - second).max() > 0.05
    first, second = (zoo_models.torchvision_answer(zoo_models.DETECTOR, image) for image in IMAGES)
    assert ((first["scores"] > 0.3) & (first["scores"] < 0.95)).sum() > 3
    assert np.abs(first["boxes"][0] - second["boxes"][0]).max() > 1
    ids = [zoo_models.torchvision_answer(zoo_models.SEGMENTER, image)["logits"].argmax(0) for image in IMAGES]
    assert (ids[0] != ids[1]).mean() > 0.1
