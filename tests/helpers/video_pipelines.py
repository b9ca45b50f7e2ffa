"""Small video pipelines of diffusers with random weights, without text encoders or downloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

TEXT = 16
"""Width of prompt embeddings."""


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _wan_vae() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def _wan_sizes() -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "text_dim": TEXT,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    }


def wan_vace() -> Any:
    """A WanVACEPipeline: video with mask."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        WanVACEPipeline,
        WanVACETransformer3DModel,
    )

    torch.manual_seed(0)
    transformer = WanVACETransformer3DModel(**_wan_sizes(), vace_layers=[0], vace_in_channels=96)
    # Control layers start at zero, so an untrained model would ignore its control video.
    for name, weight in transformer.named_parameters():
        if "proj_out" in name or "proj_in" in name:
            torch.nn.init.normal_(weight, std=0.2)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return _quiet(
        WanVACEPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=_wan_vae(),
            scheduler=scheduler,
            transformer=transformer,
        )
    )


def wan_video_to_video() -> Any:
    """A WanVideoToVideoPipeline: no adapter of the library calls it."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        WanTransformer3DModel,
        WanVideoToVideoPipeline,
    )

    torch.manual_seed(0)
    return _quiet(
        WanVideoToVideoPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=_wan_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            transformer=WanTransformer3DModel(**_wan_sizes()),
        )
    )


def ltx_condition() -> Any:
    """An LTXConditionPipeline: pictures and clips at chosen frames."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXConditionPipeline,
        LTXVideoTransformer3DModel,
    )

    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=TEXT,
    )
    return _quiet(
        LTXConditionPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=vae,
            text_encoder=None,
            tokenizer=None,
            transformer=transformer,
        )
    )


def anyflow_far() -> Any:
    """An AnyFlowFARPipeline: chunk-causal, continues a video."""
    from diffusers import (
        AnyFlowFARPipeline,
        AnyFlowFARTransformer3DModel,
        FlowMapEulerDiscreteScheduler,
    )

    torch.manual_seed(0)
    transformer = AnyFlowFARTransformer3DModel(
        **_wan_sizes(), compressed_patch_size=(1, 4, 4), full_chunk_limit=3, chunk_partition=(1, 1)
    )
    return _quiet(
        AnyFlowFARPipeline(
            tokenizer=None,
            text_encoder=None,
            transformer=transformer,
            vae=_wan_vae(),
            scheduler=FlowMapEulerDiscreteScheduler(),
        )
    )


def skyreels_forcing() -> Any:
    """A SkyReelsV2DiffusionForcingVideoToVideoPipeline: continues a video."""
    from diffusers import (
        SkyReelsV2DiffusionForcingVideoToVideoPipeline,
        SkyReelsV2Transformer3DModel,
        UniPCMultistepScheduler,
    )

    torch.manual_seed(0)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    transformer = SkyReelsV2Transformer3DModel(**_wan_sizes(), inject_sample_info=True)
    return _quiet(
        SkyReelsV2DiffusionForcingVideoToVideoPipeline(
            tokenizer=None,
            text_encoder=None,
            transformer=transformer,
            vae=_wan_vae(),
            scheduler=scheduler,
        )
    )


def stable_video() -> Any:
    """A StableVideoDiffusionPipeline: animates one picture."""
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=16,
        num_attention_heads=2,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        latent_channels=4,
    )
    clip = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            intermediate_size=16,
            patch_size=56,
        )
    )
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, timestep_type="continuous"
    )
    return _quiet(
        StableVideoDiffusionPipeline(
            vae=vae,
            image_encoder=clip,
            unet=unet,
            scheduler=scheduler,
            feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
        )
    )


def sana_wm() -> Any:
    """A SanaWMPipeline: one picture and cameras."""
    from diffusers import (
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        SanaWMPipeline,
        SanaWMTransformer3DModel,
    )

    torch.manual_seed(0)
    vae = AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(8, 16, 32, 64),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    transformer = SanaWMTransformer3DModel(
        in_channels=8,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        linear_head_dim=16,
        softmax_every_n=2,
        caption_channels=TEXT,
        chunk_plucker_post_attn_blocks=2,
        image_size=64,
    )
    # Some layers start at zero, so an untrained model would ignore its cameras.
    for weight in transformer.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    return _quiet(
        SanaWMPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=vae,
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


PIPELINES: dict[str, Callable[[], Any]] = {
    "wan-vace": wan_vace,
    "ltx-condition": ltx_condition,
    "anyflow-far": anyflow_far,
    "skyreels-forcing": skyreels_forcing,
    "stable-video": stable_video,
    "sana-wm": sana_wm,
}
"""Makers of one pipeline per call convention."""
