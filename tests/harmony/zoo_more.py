"""The zoo's further real models: encoders of text, sound, pictures and video of many designs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from zoo import B, Built, Pooled, add, case
from zoo_layers import evaluated
from zoo_real import HF, HF_IMAGE, HF_TEXT, images, one, randomised, words


def hugging(
    model: str, config: str, inputs: Callable[[], Tensor], pool: Callable[[Any], Tensor], **fields: Any
) -> Built:
    """A model of transformers by the names of its classes."""
    import transformers

    net = randomised(getattr(transformers, model)(getattr(transformers, config)(**fields)))
    x = inputs()
    return net, lambda: {"z": pool(net(x))}


def mean(out: Any) -> Tensor:
    z: Tensor = out.last_hidden_state.mean(1)
    return z


def pooler(out: Any) -> Tensor:
    z: Tensor = out.pooler_output
    return z


def text(
    name: str,
    model: str,
    config: str,
    pool: Callable[[Any], Tensor] = mean,
    *,
    tolerance: float = 0,
    **fields: Any,
) -> None:
    """tolerance: of models that compute their norms in single precision."""
    ends = {"vocab_size": 31, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 30}
    add(
        f"transformers {name}",
        partial(hugging, model, config, words, pool, **{**ends, **fields}),
        tolerance=tolerance,
    )


def picture(name: str, model: str, config: str, **fields: Any) -> None:
    add(f"transformers {name}", partial(hugging, model, config, images, pooler, **fields))


text("gpt2", "GPT2Model", "GPT2Config", n_positions=8, n_embd=16, n_layer=1, n_head=2)
text(
    "t5 encoder",
    "T5EncoderModel",
    "T5Config",
    tolerance=1e-5,
    d_model=16,
    d_kv=8,
    d_ff=32,
    num_layers=2,
    num_heads=2,
    decoder_start_token_id=0,
)
text(
    "albert, one layer used twice",
    "AlbertModel",
    "AlbertConfig",
    pooler,
    embedding_size=8,
    **{**HF, "num_hidden_layers": 2},
    max_position_embeddings=8,
)
text(
    "llama",
    "LlamaModel",
    "LlamaConfig",
    tolerance=1e-5,
    **HF,
    num_key_value_heads=1,
    max_position_embeddings=8,
)
text(
    "deberta",
    "DebertaV2Model",
    "DebertaV2Config",
    **HF,
    max_position_embeddings=8,
    relative_attention=True,
    pos_att_type=["c2p", "p2c"],
)
text("mamba", "MambaModel", "MambaConfig", tolerance=1e-5, hidden_size=16, state_size=4, num_hidden_layers=1)
picture("dinov2", "Dinov2Model", "Dinov2Config", **HF_IMAGE, mlp_ratio=2, drop_path_rate=0.2)
picture(
    "swin",
    "SwinModel",
    "SwinConfig",
    image_size=16,
    patch_size=2,
    embed_dim=8,
    depths=[2],
    num_heads=[2],
    window_size=4,
)
add(
    "transformers wav2vec 2",
    partial(
        hugging,
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        lambda: torch.randn(B, 40),
        mean,
        **HF,
        conv_dim=(8, 8),
        conv_stride=(2, 2),
        conv_kernel=(4, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        apply_spec_augment=False,
        layerdrop=0.0,
        num_feat_extract_layers=2,
    ),
)
add(
    "transformers audio spectrogram transformer",
    partial(
        hugging,
        "ASTModel",
        "ASTConfig",
        lambda: torch.randn(B, 16, 8),
        pooler,
        **HF,
        patch_size=4,
        frequency_stride=4,
        time_stride=4,
        max_length=16,
        num_mel_bins=8,
    ),
)
add(
    "transformers perceiver",
    partial(
        hugging,
        "PerceiverModel",
        "PerceiverConfig",
        lambda: torch.randn(B, 6, 8),
        mean,
        d_model=8,
        d_latents=16,
        num_latents=B,
        num_blocks=1,
        num_self_attends_per_block=1,
        num_self_attention_heads=2,
        num_cross_attention_heads=1,
    ),
)


@case("transformers siglip", several=True)
def siglip() -> Built:
    from transformers import SiglipConfig, SiglipModel

    limits = {"text_config": {**HF_TEXT, "max_position_embeddings": 8}, "vision_config": HF_IMAGE}
    model, pictures, ids = randomised(SiglipModel(SiglipConfig(**limits))), images(), words()

    def encode() -> Pooled:
        out = model(input_ids=ids, pixel_values=pictures)
        return {"image": out.image_embeds, "text": out.text_embeds}

    return model, encode


@case("timm mlp-mixer")
def mixer() -> Built:
    from timm.models.mlp_mixer import MlpMixer

    return one(MlpMixer(img_size=16, patch_size=8, num_blocks=1, embed_dim=16, num_classes=0), images())


@case("timm beit")
def beit() -> Built:
    from timm.models.beit import Beit

    model = Beit(
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=0,
        init_values=0.1,
        use_rel_pos_bias=True,
        use_abs_pos_emb=False,
    )
    return one(model, images())


@case("timm eva")
def eva() -> Built:
    from timm.models.eva import Eva

    model = Eva(
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=0,
        swiglu_mlp=True,
        use_rot_pos_emb=True,
        scale_mlp=True,
    )
    return one(model, images())


@case("torchvision vit")
def torchvision_vit() -> Built:
    from torchvision.models import VisionTransformer

    return one(
        VisionTransformer(16, 8, 1, 2, 16, 32, dropout=0.1, attention_dropout=0.1, num_classes=4), images()
    )


@case("torchvision video swin")
def video_swin() -> Built:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    model = SwinTransformer3d([2, 4, 4], 8, [2], [2], [2, 2, 2], num_classes=4)
    return one(model, torch.randn(B, 3, 4, 16, 16))


@case("torchaudio conformer in eval mode")
def conformer() -> Built:
    from torchaudio.models import Conformer

    model = evaluated(randomised(Conformer(8, 2, 16, 1, 3)))
    sound, lengths = torch.randn(B, 6, 8), torch.tensor([6, 4, 5, 3])
    return model, lambda: {"z": model(sound, lengths)[0].mean(1)}
