"""The model: stems, shared transformer, post projections, heads."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from harmonize_cli.errors import BadInput
from harmonize_cli.models.base import MODELS, Model
from harmonize_cli.models.config import MODALITIES, ModelConfig
from harmonize_cli.models.heads import FacHead, build_head
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.models.positions import PositionTable
from harmonize_cli.models.stem import Stem
from harmonize_cli.models.tokenisers import PatchTokens, WordTokens
from harmonize_cli.models.transformer import Transformer


@MODELS.register("vatt")
class Vatt(Model):
    """VATT (arXiv 2104.11178). `inputs` says which modalities arrive and in which shape.

    Modality-agnostic: `transformer` is one `Transformer`; modality-specific: a `ModuleDict` of them.
    Without `with_head` it is an encoder for `encode` alone.

    Every parameter lives in a module with a forward of its own, so that hooks can see its inputs and
    outputs; the leading dimension of each is samples (text: samples x candidates).
    """

    Config = ModelConfig

    def __init__(
        self, config: ModelConfig, inputs: Mapping[str, InputSpec], *, with_head: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(m for m in MODALITIES if m in inputs)
        rates = config.dropout_rate, config.attention_dropout_rate
        self.stems = nn.ModuleDict({m: Stem(m, inputs[m], config) for m in self.modalities})
        self.transformer: nn.Module
        if config.sharing == "agnostic":
            self.transformer = Transformer(config.size("video"), *rates)
            width = config.size("video").width
            self.post_proj = nn.ModuleDict(
                {m: nn.Linear(width, config.pooled_width(m)) for m in self.modalities}
            )
        else:
            self.transformer = nn.ModuleDict(
                {m: Transformer(config.size(m), *rates) for m in self.modalities}
            )
            self.post_proj = nn.ModuleDict()
        widths: dict[str, int] = {m: config.pooled_width(m) for m in self.modalities}
        self.head = build_head(widths, config.head) if with_head else None
        self._start()

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Model`."""
        return {m: self._pool(m, inputs[m], inputs.get(f"{m}_mask")) for m in self.modalities if m in inputs}

    def heads(
        self, pooled: Mapping[str, Tensor], real: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Model` and `FacHead`.

        Raises:
            BadInput: the model was exported without its heads.
        """
        if self.head is None:
            raise BadInput("this model was exported without its heads; export it with --heads")
        embeddings: dict[str, Tensor] = self.head(pooled, real)
        return embeddings

    def stack(self, modality: str) -> Transformer:
        """The blocks that read `modality`."""
        if isinstance(self.transformer, nn.ModuleDict):
            return cast(Transformer, self.transformer[modality])
        return cast(Transformer, self.transformer)

    def stages(self, modality: str) -> list[nn.Module]:
        """Stem, transformer and, in the modality-agnostic model, post_proj."""
        last = [self.post_proj[modality]] if modality in self.post_proj else []
        return [self.stems[modality], self.stack(modality), *last]

    def pooled_width(self, modality: str) -> int:
        """See `Model`."""
        return self.config.pooled_width(modality)

    def needs(self, embeddings: Collection[str]) -> None:
        """Audio is carried into the video-text space for the losses that compare it there."""
        if isinstance(self.head, FacHead):
            self.head.carry_audio = "audio_vt" in embeddings

    def prepare(self, *, checkpointing: bool, compiled: bool) -> None:
        """See `Model`; the transformer is what is compiled."""
        for stack in {self.stack(m) for m in self.modalities}:
            stack.checkpointing = checkpointing
            if compiled:
                stack.compile()

    def fit_inputs(self, rows_of: Callable[[str], Iterable[Tensor]]) -> None:
        """Fit `Standardise` of every tokeniser that has one."""
        for modality in self.modalities:
            tokeniser = self._stem(modality).tokeniser
            if isinstance(tokeniser, PatchTokens) and tokeniser.standardise is not None:
                tokeniser.standardise.fit(tokeniser.patches(x, None) for x in rows_of(modality))

    def input_statistics(self) -> dict[str, Tensor]:
        """See `Model`."""
        return {name: x for name, x in self.state_dict().items() if ".standardise." in name}

    def for_labels(self, modality: str, spec: InputSpec) -> None:
        """No DropToken; interpolated position tables become the tables, so that they are trained.

        Raises:
            BadInput: frames smaller than the patches.
        """
        for m in self.modalities:
            self._stem(m).drop_token = 0.0
        if spec.kind != "frames":
            return
        stem, side = self._stem(modality), min(spec.row_shape[:2])
        frame = torch.zeros(1, spec.rows, side, side, spec.row_shape[2], dtype=torch.uint8)
        grid = stem.tokeniser.grid(frame)
        if min(grid) < 1:
            raise BadInput(f"frames of {side} pixels are smaller than the model's patches")
        for table, length in zip(stem.positions.tables, grid, strict=True):
            table = cast(PositionTable, table)
            if table.weight.shape[0] != length:
                table.resize(length)

    def _stem(self, modality: str) -> Stem:
        return cast(Stem, self.stems[modality])

    def _pool(self, modality: str, x: Tensor, mask: Tensor | None) -> Tensor:
        lead = x.shape[:1]
        if modality == "text":  # [B, C, ...] -> [B * C, ...]
            lead, x = x.shape[:2], x.flatten(0, 1)
            if x.is_floating_point():
                x = x.unsqueeze(1) if x.dim() == 2 else x  # a vector is a sequence of one
            else:
                # 0 is padding at the end; among open_clip's tokens it is one of the text as well
                place = torch.arange(1, x.shape[1] + 1, device=x.device)
                mask = place <= (place * (x != 0)).amax(dim=1, keepdim=True)
        tokens, key_mask = self.stems[modality](x, mask)
        agg = self.stack(modality)(tokens, key_mask, queries=1)[:, 0]
        if modality in self.post_proj:
            agg = gelu(self.post_proj[modality](agg))
        pooled: Tensor = agg.unflatten(0, lead)
        return pooled

    @torch.no_grad()
    def _start(self) -> None:
        """Keras' defaults: Glorot uniform, no bias. The fused qkv layer starts as three layers would."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                for block in module.weight.chunk(3) if name.endswith("qkv") else (module.weight,):
                    nn.init.xavier_uniform_(block)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.config.word_vectors and "text" in self.stems:
            self._load_words(self.config.word_vectors)

    def _load_words(self, file: str) -> None:
        weight = cast(WordTokens, self._stem("text").tokeniser).words.weight
        try:
            vectors = torch.from_numpy(np.load(file, allow_pickle=False))
        except (OSError, ValueError) as e:
            raise BadInput(f"model.word_vectors: {file}: can't be read as .npy ({e})") from e
        if vectors.shape != weight.shape:
            raise BadInput(
                f"model.word_vectors: {file} has shape {tuple(vectors.shape)}, "
                f"vocabulary and word_dim ask for {tuple(weight.shape)}"
            )
        weight.copy_(vectors)
