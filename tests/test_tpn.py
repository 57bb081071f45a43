"""TPN's auxiliary classifier: part of the weights, of no result."""

import pytest
import torch

import videozoo


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return videozoo.create_model("tpn_tsm_r50_f8", num_classes=3, drop_rate=0.0)


def test_auxiliary_logits_come_beside_those_of_forward(model):
    torch.manual_seed(0)
    clips = torch.randn(2, 3, 8, 64, 64)
    logits, auxiliary = model.train().forward_auxiliary(clips)
    assert logits.shape == auxiliary.shape == (2, 3)
    assert torch.equal(logits, model(clips))
    assert not torch.allclose(logits, auxiliary)
    (logits.sum() + auxiliary.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_auxiliary_head_follows_the_classifier(model):
    clips = torch.randn(1, 3, 8, 64, 64)
    model.eval().reset_classifier(5)
    assert [tuple(y.shape) for y in model.forward_auxiliary(clips)] == [(1, 5), (1, 5)]
    model.reset_classifier(0)
    assert not [key for key in model.state_dict() if key.startswith("aux")]
    with pytest.raises(ValueError, match="create it with num_classes"):
        model.forward_auxiliary(clips)
