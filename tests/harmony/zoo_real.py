"""The zoo's real models: timm, open_clip and transformers, from small random configs."""

from typing import Any

import torch
from torch import Tensor, nn
from zoo import B, Built, Pooled, case
from zoo_layers import evaluated

VISION: dict[str, Any] = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
TEXT: dict[str, Any] = {"context_length": 8, "vocab_size": 31, "width": 16, "layers": 1, "heads": 2}
HF: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
HF_TEXT: dict[str, Any] = {
    **HF,
    "vocab_size": 31,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 30,
}
HF_IMAGE: dict[str, Any] = {**HF, "image_size": 16, "patch_size": 8}


def images(size: int = 16) -> Tensor:
    return torch.randn(B, 3, size, size)


def words(length: int = 8) -> Tensor:
    """Each sample's end of text, the largest number, at a place of its own."""
    ids = torch.randint(2, 29, (B, length))
    ids[torch.arange(B), torch.tensor([3, 7, 5, 4])] = 30
    return ids


def randomised(model: Any) -> Any:
    """Values under which every parameter matters: libraries start some at zero, at 1e-6, or not at all."""
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() < 2:
                p.normal_(0.4, 0.3)
            else:
                p.normal_(0, (p.numel() / p.shape[0]) ** -0.5)
    return model


def one(model: nn.Module, inputs: Tensor) -> Built:
    return randomised(model), lambda: {"z": model(inputs)}


@case("timm vit")
def timm_vit() -> Built:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=0,
        init_values=0.1,
        pos_drop_rate=0.1,
        proj_drop_rate=0.1,
        attn_drop_rate=0.1,
        drop_path_rate=0.2,
    )
    return one(model, images())


@case("timm vit, as many tokens as samples")
def timm_vit_coinciding() -> Built:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=0,
        class_token=False,
        global_pool="map",
        qk_norm=True,
    )
    return one(model, images())


@case("timm resnet in eval mode")
def timm_resnet() -> Built:
    return one(evaluated(resnet()), images(32))


@case("timm resnet", refused="BatchNorm")
def timm_resnet_in_training() -> Built:
    return one(resnet(), images(32))


def resnet() -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    model: nn.Module = ResNet(BasicBlock, (1, 1, 1, 1), channels=(4, 4, 6, 8), num_classes=0, stem_width=4)
    return model


@case("timm convnext")
def timm_convnext() -> Built:
    from timm.models.convnext import ConvNeXt

    return one(
        ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 4, 6, 8), num_classes=0, drop_path_rate=0.1), images(32)
    )


@case("timm swin")
def timm_swin() -> Built:
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        img_size=16, patch_size=2, embed_dim=8, depths=(2,), num_heads=(2,), window_size=4, num_classes=0
    )
    return one(model, images())


@case("open_clip clip", several=True)
def open_clip_clip() -> Built:
    from open_clip.model import CLIP

    model = CLIP(8, VISION, TEXT)
    randomised(model)
    pictures, ids = images(), words()
    return model, lambda: {"image": model.encode_image(pictures), "text": model.encode_text(ids)}


@case("open_clip clip with normalised outputs and patch dropout", several=True)
def open_clip_patch_dropout() -> Built:
    from open_clip.model import CLIP

    model = CLIP(8, {**VISION, "patch_dropout": 0.5, "ls_init_value": 0.1}, {**TEXT, "ls_init_value": 0.1})
    randomised(model)
    pictures, ids = images(), words()
    return model, lambda: {
        "image": model.encode_image(pictures, normalize=True),
        "text": model.encode_text(ids, normalize=True),
    }


@case("open_clip siglip", several=True)
def open_clip_siglip() -> Built:
    from open_clip.model import CustomTextCLIP
    from timm.models.vision_transformer import VisionTransformer

    text = {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    model = CustomTextCLIP(16, VISION, text, init_logit_bias=-10)
    model.visual = VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=0,
        class_token=False,
        global_pool="map",
    )
    randomised(model)
    pictures, ids = images(), words()
    return model, lambda: {"image": model.encode_image(pictures), "text": model.encode_text(ids)}


@case("open_clip coca", several=True)
def open_clip_coca() -> Built:
    from open_clip.coca_model import CoCa

    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    vision = {
        **VISION,
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    }
    model = CoCa(16, TEXT, text, vision)
    randomised(model)
    pictures, ids = images(), words()

    def encode() -> Pooled:
        out = model(pictures, ids[:, :7])
        return {"image": out["image_features"], "text": out["text_features"], "caption": out["logits"]}

    return model, encode


@case("transformers bert")
def bert() -> Built:
    from transformers import BertConfig, BertModel

    model, ids = randomised(BertModel(BertConfig(**HF_TEXT))), words()
    mask = torch.arange(8) <= torch.tensor([3, 7, 5, 4])[:, None]
    return model, lambda: {"z": model(ids, attention_mask=mask.long()).pooler_output}


@case("transformers bert by gradient checkpointing")
def bert_checkpointed() -> Built:
    from transformers import BertConfig, BertModel

    model, ids = randomised(BertModel(BertConfig(**HF_TEXT))), words()
    model.activation_checkpointing_enable()
    return model, lambda: {"z": model(input_ids=ids).last_hidden_state.mean(1)}


@case("transformers vit")
def hf_vit() -> Built:
    from transformers import ViTConfig, ViTModel

    model, pictures = randomised(ViTModel(ViTConfig(**HF_IMAGE, hidden_dropout_prob=0.1))), images()
    return model, lambda: {"z": model(pixel_values=pictures).pooler_output}


@case("transformers clip", several=True)
def hf_clip() -> Built:
    from transformers import CLIPConfig, CLIPModel

    text, vision = {**HF_TEXT, "attention_dropout": 0.1}, {**HF_IMAGE, "attention_dropout": 0.1}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    randomised(model)
    pictures, ids = images(), words()

    def encode() -> Pooled:
        out = model(input_ids=ids, pixel_values=pictures)
        return {"image": out.image_embeds, "text": out.text_embeds}

    return model, encode


@case("transformers clap", several=True, refused="BatchNorm", tolerance=1e-5)
def hf_clap_in_training() -> Built:
    return clap()


@case("transformers clap in eval mode", several=True, tolerance=1e-5)
def hf_clap() -> Built:
    model, encode = clap()  # type: ignore[misc]
    evaluated(model)
    return model, encode


def clap() -> Built:
    from transformers import ClapConfig, ClapModel

    audio = {
        "spec_size": 32,
        "num_mel_bins": 8,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 2],
        "hidden_size": 16,
        "window_size": 2,
        "num_hidden_layers": 2,
        "projection_dim": 8,
    }
    model = ClapModel(
        ClapConfig(text_config={**HF_TEXT, "projection_dim": 8}, audio_config=audio, projection_dim=8)
    )
    randomised(model)
    sound, ids = torch.randn(B, 1, 128, 8), words()

    def encode() -> Pooled:
        return {
            "audio": model.get_audio_features(input_features=sound).pooler_output,
            "text": model.get_text_features(input_ids=ids).pooler_output,
        }

    return model, encode


@case("transformers videomae")
def videomae() -> Built:
    from transformers import VideoMAEConfig, VideoMAEModel

    model = VideoMAEModel(VideoMAEConfig(**HF_IMAGE, num_frames=4, tubelet_size=2))
    randomised(model)
    frames = torch.randn(B, 4, 3, 16, 16)
    return model, lambda: {"z": model(frames).last_hidden_state.mean(1)}


@case("transformers videomae, masked")
def videomae_masked() -> Built:
    from transformers import VideoMAEConfig, VideoMAEModel

    model = VideoMAEModel(VideoMAEConfig(**HF_IMAGE, num_frames=4, tubelet_size=2))
    randomised(model)
    frames = torch.randn(B, 4, 3, 16, 16)
    masked = torch.rand(B, 8).argsort(1) < 5
    return model, lambda: {"z": model(frames, bool_masked_pos=masked).last_hidden_state.mean(1)}


@case("transformers whisper encoder")
def whisper() -> Built:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=10,
        vocab_size=31,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        dropout=0.1,
        attention_dropout=0.1,
        encoder_layerdrop=0.0,
    )
    model, mel = randomised(WhisperEncoder(config)), torch.randn(B, 8, 20)
    return model, lambda: {"z": model(mel).last_hidden_state.mean(1)}
