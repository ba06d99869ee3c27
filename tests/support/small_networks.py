"""Sizes of a denoiser that a test builds in milliseconds."""

SMALL_ADAPTER = {"width": 32, "text_width": 12, "latents": 5, "heads": 4, "blocks": 3, "class_hidden": 8}
SMALL_UNET = {
    "in_channels": 12,
    "out_channels": 12,
    "channels": [8, 16, 16],
    "num_res_blocks": [1, 1, 1],
    "attention_levels": [False, True, True],
    "num_head_channels": 8,
    "norm_num_groups": 4,
}
