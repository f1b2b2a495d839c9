"""Names of layers in kohya's files, as published ones have them."""

import pytest

from maquette.families.lora_keys import fused, spellings
from maquette.families.registry import load_spec

PUBLISHED = [
    ("sd15", "unet.down_blocks.0.attentions.0.proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"),
    ("sd15", "text_encoder.encoder.layers.3.mlp.fc1", "lora_te_text_model_encoder_layers_3_mlp_fc1"),
    (
        "sdxl",
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0",
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_out_0",
    ),
    ("sdxl", "unet.down_blocks.2.attentions.1.proj_in", "lora_unet_input_blocks_8_1_proj_in"),
    ("sdxl", "unet.down_blocks.0.resnets.1.conv1", "lora_unet_input_blocks_2_0_in_layers_2"),
    ("sdxl", "unet.down_blocks.1.downsamplers.0.conv", "lora_unet_input_blocks_6_0_op"),
    ("sdxl", "unet.mid_block.attentions.0.proj_out", "lora_unet_middle_block_1_proj_out"),
    ("sdxl", "unet.mid_block.resnets.1.conv2", "lora_unet_middle_block_2_out_layers_3"),
    ("sdxl", "unet.up_blocks.0.attentions.2.proj_in", "lora_unet_output_blocks_2_1_proj_in"),
    ("sdxl", "unet.up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_2_conv"),
    ("sdxl", "unet.up_blocks.1.attentions.0.proj_out", "lora_unet_output_blocks_3_1_proj_out"),
    ("sdxl", "unet.up_blocks.2.resnets.2.conv_shortcut", "lora_unet_output_blocks_8_0_skip_connection"),
    ("sdxl", "unet.up_blocks.2.resnets.0.time_emb_proj", "lora_unet_output_blocks_6_0_emb_layers_1"),
    ("sdxl", "text_encoder.encoder.layers.0.self_attn.q_proj", "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"),
    ("sdxl", "text_encoder_2.encoder.layers.31.mlp.fc2", "lora_te2_text_model_encoder_layers_31_mlp_fc2"),
    ("flux1", "transformer.transformer_blocks.18.attn.to_q", "lora_unet_double_blocks_18_img_attn_qkv"),
    ("flux1", "transformer.transformer_blocks.0.attn.add_v_proj", "lora_unet_double_blocks_0_txt_attn_qkv"),
    ("flux1", "transformer.transformer_blocks.0.attn.to_add_out", "lora_unet_double_blocks_0_txt_attn_proj"),
    ("flux1", "transformer.transformer_blocks.0.ff_context.net.2", "lora_unet_double_blocks_0_txt_mlp_2"),
    ("flux1", "transformer.transformer_blocks.7.norm1.linear", "lora_unet_double_blocks_7_img_mod_lin"),
    ("flux1", "transformer.single_transformer_blocks.37.proj_mlp", "lora_unet_single_blocks_37_linear1"),
    ("flux1", "transformer.single_transformer_blocks.5.proj_out", "lora_unet_single_blocks_5_linear2"),
    ("flux1", "text_encoder.encoder.layers.1.mlp.fc1", "lora_te1_text_model_encoder_layers_1_mlp_fc1"),
]


@pytest.mark.parametrize(("family", "layer", "name"), PUBLISHED)
def test_a_layer_is_written_and_read_by_its_published_name(family: str, layer: str, name: str) -> None:
    keys = load_spec(family).keys
    assert fused(keys, [layer]) == {name: [layer]}
    assert list(spellings(keys, [layer])[name]) == [layer]


def test_layers_that_are_one_elsewhere_lie_in_its_order() -> None:
    keys = load_spec("flux1").keys
    block = "transformer.single_transformer_blocks.0."
    layers = [block + name for name in ("proj_mlp", "proj_out", "attn.to_k", "attn.to_v", "attn.to_q")]
    assert fused(keys, layers) == {
        "lora_unet_single_blocks_0_linear1": [
            block + name for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        ],
        "lora_unet_single_blocks_0_linear2": [f"{block}proj_out"],
    }


def test_names_of_other_trainers_are_read_too() -> None:
    layer = "unet.down_blocks.1.attentions.0.proj_in"
    read = spellings(load_spec("sdxl").keys, [layer])
    assert {name for name, layers in read.items() if list(layers) == [layer]} == {
        layer,
        "lora_unet_down_blocks_1_attentions_0_proj_in",
        "lora_unet_input_blocks_4_1_proj_in",
    }
