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
    # the other recognisers of MMAction2
    "mma012_r2plus1d_r34_8x8x1_180e_kinetics400_rgb": "r2plus1d_r34_8x8x1_180e_kinetics400_rgb",
    "mma012_ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb": (
        "ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb"
    ),
    "mma012_c3d_sports1m_16x1x1_45e_ucf101_rgb": "c3d_sports1m_16x1x1_45e_ucf101_rgb",
    "mma012_x3d_s_13x6x1_facebook_kinetics400_rgb": "x3d_s_13x6_k400.mma0",
    "mma012_tanet_r50_dense_1x1x8_100e_kinetics400_rgb": "tanet_r50_dense_1x1x8_100e_kinetics400_rgb",
    "mma012_tin_r50_1x1x8_40e_sthv1_rgb": "tin_r50_1x1x8_40e_sthv1_rgb",
    "mma012_tpn_slowonly_r50_8x8x1_150e_kinetics_rgb": "tpn_slowonly_r50_8x8x1_150e_kinetics_rgb",
    "mma012_tsn_r18_64x1x1_100e_kinetics400_audio_feature": "tsn_r18_64x1x1_100e_kinetics400_audio_feature",
    "mma012_audioonly_r50_64x1x1_100e_kinetics400_audio_feature": "audioonly_r50_64x1x1_100e_kinetics400_audio_feature",
    "mma12_ircsn_r50": "ircsn_r50_32x2_k400",
    "mma12_c2d_r50_8x8x1": "c2d_r50_8x8_k400.mma1",
    "mma12_slowonly_nl_embedded_gaussian_r50_4x16x1": "slowonly_nlembgauss_r50_4x16_k400",
    # PyTorchVideo, PySlowFast and torchvision
    "ptv_slow_r50": "slowonly_r50_8x8_k400.ptv",
    "ptv_slowfast_r50": "slowfast_r50_8x8_k400.ptv",
    "ptv_slowfast_16x8_r101_50_50": "slowfast_r101_16x8_k400.ptv",
    "ptv_i3d_r50": "i3d_r50_8x8_k400.ptv",
    "ptv_c2d_r50": "c2d_r50_8x8_k400.ptv",
    "ptv_csn_r101": "ircsn_r101_32x2_k400.ptv",
    "ptv_r2plus1d_r50": "r2plus1d_r50_16x4_k400.ptv",
    "ptv_x3d_m": "x3d_m_16x5_k400.ptv",
    "ptv_x3d_xs": "x3d_xs_4x12_k400.ptv",
    "ptv_efficient_x3d_xs": "x3d_xs_4x12_k400.ptv_efficient",
    "pysf_slow_8x8_r50": "slowonly_r50_8x8_k400.fair",
    "pysf_slow_8x8_r50_crop256": "slowonly_r50_8x8_k400.fair",
    "pysf_slowfast_4x16_r50": "slowfast_r50_4x16_k400.fair",
    "pysf_i3d_8x8_r50": "i3d_r50_8x8_k400.fair",
    "pysf_i3d_nln_8x8_r50": "i3d_nlembgauss_r50_8x8_k400.fair",
    "pysf_c2d_8x8_r50": "c2d_r50_8x8_k400.ptv",
    "pysf_x3d_s": "x3d_s_13x6_k400.fair",
    "pysf_x3d_xs": "x3d_xs_4x12_k400.fair",
    "tv_r3d_18": "r3d_18",
    "tv_r2plus1d_18": "r2plus1d_18",
    "tv_s3d": "s3d",
}


def as_published(features, case_id):
    """Our features in the order of the source: the authors of SlowFast put the slow pathway first."""
    if "slowfast" in case_id and not case_id.startswith("mma"):
        features = torch.cat((features[:, 256:], features[:, :256]), dim=1)
    return features


@pytest.mark.parametrize("case_id", CASES)
def test_output_equals_that_of_the_published_implementation(case_id, tmp_path):
    case, expected = read_case(case_id)
    path = write_checkpoint(case, tmp_path / "published.pth")
    model = videozoo.create_model(CASES[case_id], checkpoint_path=path).eval()
    path.unlink()
    with torch.inference_mode():
        unpooled = model.forward_features(clip(case))
        logits = model.forward_head(unpooled)
        features = model.forward_head(unpooled, pre_logits=True)
    assert relative_error(logits, expected["logits"]) < case["tol"]

    wanted = expected["features"]
    if wanted.shape != features.shape:  # one row a frame or window there, which are averaged after the classifier
        wanted = wanted.reshape(len(features), -1, features.shape[1]).mean(1)
    assert relative_error(as_published(features, case_id), wanted) < case["tol"]

    if "probs" in expected:  # of the windows that the head slides over the features, averaged
        with torch.inference_mode():
            probabilities = model.forward_windows(clip(case)).softmax(-1).mean(1)
        assert relative_error(probabilities, expected["probs"]) < case["tol"]
