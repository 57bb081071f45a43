"""Every architecture computes what its published implementation does, from a checkpoint file in the published form."""

import pytest
import torch
from parity import clip, read_case, relative_error, write_checkpoint

import videozoo

CASES = {  # case -> name given to create_model; the first block uses the publisher's own names
    "mma012_i3d_nl_dot_product_r50_32x2x1_100e_kinetics400_rgb": "i3d_nl_dot_product_r50_32x2x1_100e_kinetics400_rgb",
    "mma012_i3d_nl_gaussian_r50_32x2x1_100e_kinetics400_rgb": "i3d_nlgauss_r50_k400",
    "mma012_i3d_r50_32x2x1_100e_kinetics400_rgb": "i3d_r50_32x2x1_100e_kinetics400_rgb",
    "mma012_slowfast_r101_r50_4x16x1_256e_kinetics400_rgb": "slowfast_r101r50_4x16_k400",
    "mma012_slowfast_r50_4x16x1_256e_kinetics400_rgb": "slowfast_r50_4x16_k400.mma0_256p",
    "mma012_slowfast_r50_8x8x1_256e_kinetics400_rgb": "slowfast_r50_8x8x1_256e_kinetics400_rgb",
    "mma012_slowonly_r101_8x8x1_196e_kinetics400_rgb": "slowonly_r101_k400.mma0_omni",
    "mma012_slowonly_r50_4x16x1_256e_kinetics400_flow": "slowonly_r50_4x16_k400_flow",
    "mma012_slowonly_r50_4x16x1_256e_kinetics400_rgb": "slowonly_r50_4x16_k400",
    "mma012_tsm_mobilenetv2_dense_1x1x8_100e_kinetics400_rgb": "tsm_mobilenetv2_k400",
    "mma012_tsm_nl_dot_product_r50_1x1x8_50e_kinetics400_rgb": "tsm_nldot_r50_f8_k400",
    "mma012_tsm_nl_gaussian_r50_1x1x8_50e_kinetics400_rgb": "tsm_nlgauss_r50_f8_k400",
    "mma012_tsm_r101_1x1x8_50e_sthv1_rgb": "tsm_r101_1x1x8_50e_sthv1_rgb",
    "mma012_tsm_r50_1x1x8_50e_kinetics400_rgb": "tsm_r50_f8_k400.mma0",
    "mma012_tsn_r101_1x1x5_50e_mmit_rgb": "tsn_r101_mmit",
    "mma012_tsn_r18_1x1x8_100e_hvu_action_rgb": "tsn_r18_f8_hvu_action",
    "mma012_tsn_r50_1x1x3_100e_kinetics400_rgb": "tsn_r50_1x1x3_100e_kinetics400_rgb",
}


@pytest.mark.parametrize("case_id", CASES)
def test_logits_and_features_equal_the_published_implementation(case_id, tmp_path):
    case, expected = read_case(case_id)
    path = write_checkpoint(case, tmp_path / "published.pth")
    model = videozoo.create_model(CASES[case_id], checkpoint_path=path).eval()
    with torch.inference_mode():
        unpooled = model.forward_features(clip(case))
        logits = model.forward_head(unpooled)
        features = model.forward_head(unpooled, pre_logits=True)
    path.unlink()

    assert relative_error(logits, expected["logits"]) < case["tol"]
    wanted = expected["features"]
    if len(wanted) != len(features):  # the reference keeps one row a frame and averages after the classifier
        wanted = wanted.reshape(len(features), -1, wanted.shape[1]).mean(1)
    assert relative_error(features, wanted) < case["tol"]
