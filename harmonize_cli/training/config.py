"""Everything that `harmonize pretrain` can be told; one section per component."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harmonize_cli.config import StageConfig
from harmonize_cli.data.windows import InputsConfig
from harmonize_cli.models.config import AnyModel, ModelConfig
from harmonize_cli.objectives.config import LossConfig

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Control = Literal["random", "shuffled", "norm"]


class AugmentConfig(StageConfig):
    """Augmentation of raw inputs while training; off by default."""

    crop: Literal["none", "area", "scale"] = "none"
    """area: random share of the picture and aspect, resized back (paper); scale: sides jittered by up to a
    fifth, then a crop of the old size (code)."""
    area: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest share of the picture, for crop: area."""
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    """Smallest and largest width / height, for crop: area."""
    flip: Share = 0.0
    """Chance of a mirrored clip (published: 0.5)."""
    colour: Share = 0.0
    """Chance of a colour change: brightness, contrast, saturation, hue (published: 0.8)."""
    audio_noise: Annotated[float, Field(ge=0)] = 0.0
    """Noise on waveforms, as a share of the largest sample (published: 0.01)."""

    @property
    def any(self) -> bool:
        """Whether anything is switched on."""
        return self.crop != "none" or bool(self.flip or self.colour or self.audio_noise)


class GateConfig(StageConfig):
    """The curriculum: a sample takes part while its losses' gradients agree enough. Names as in `Gate`."""

    schedule: Literal["constant", "linear", "cosine", "quantile"] = "linear"
    """How the threshold on the cosine goes from start to end; constant is end throughout; quantile reads both
    as shares of the batch to leave out, and goes linearly."""
    start: Annotated[float, Field(ge=-1, le=1)] = -0.3
    """Threshold at the first step after the warm-up ..."""
    end: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """... and after `steps` more."""
    steps: Positive | None = None
    """Steps from start to end; default: to the run's last one."""
    warmup: NotNegative = 0
    """Steps without gating, before the schedule starts."""
    min_share: Share = 0.0
    """Smallest share of a batch that takes part, whatever the threshold."""
    rejected: str = "both"
    """What a rejected sample loses: both (all losses), one (that agrees least), or a loss by its name."""

    @model_validator(mode="after")
    def _shares(self) -> "GateConfig":
        if self.schedule == "quantile" and min(self.start, self.end) < 0:
            raise ValueError(
                f"schedule quantile reads start and end as shares from 0 to 1; they are {self.start:g} and "
                f"{self.end:g}"
            )
        return self


OLD_GATE_KEYS = {
    "schedule": "gate.schedule",
    "gamma_start": "gate.start",
    "gamma_end": "gate.end",
    "warmup": "gate.warmup",
    "min_kept": "gate.min_share",
    "reject": "gate.rejected",
}


class HarmonizeConfig(StageConfig):
    """Gradient harmonization (docs/harmonization.md)."""

    mode: Literal["none", "realign", "curriculum", "both"] = "none"
    """realign: project conflicting per-sample gradients; curriculum: leave out samples by the gate; both: the
    gate first, then the rule."""
    scope: str = "auto"
    """Where the gradients are compared: representation, backbone, shared, all, or comma-separated module
    paths; auto is backbone, or shared in a model whose modalities have no parameter in common."""
    rule: str = "realign"
    """The rule of modes realign and both: realign, gradvac, mgda, imtl_g, nash, aligned, cagrad, mmpareto, or
    torchjd:UPGrad and others of TorchJD (docs/harmonization.md)."""
    granularity: str = "sample"
    """sample, microbatch:N or batch."""
    gram: str = "exact"
    """exact, or sketch:K for an estimate of the weights."""
    control: Control | None = None
    """An equal-cost control instead of the method: random drop of the same share, shuffled conflicts, or
    the rule's length without its direction."""
    gate: GateConfig = GateConfig()
    """Of modes curriculum and both."""
    log_every: NotNegative = 0
    """Mode none: measure the conflict every N steps, for the log only (0: never)."""

    @model_validator(mode="before")
    @classmethod
    def _new_names(cls, values: Any) -> Any:
        old = [key for key in OLD_GATE_KEYS if isinstance(values, dict) and key in values]
        if old:
            raise ValueError("; ".join(f"{key} is now called {OLD_GATE_KEYS[key]}" for key in old))
        return values


class OptimConfig(StageConfig):
    """Optimiser and schedule (VATT table 8)."""

    name: Literal["adam", "adamw"] = "adam"
    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate: 1e-4 as published, 1e-3 for the tiny preset."""
    final: Share | None = None
    """The last step's learning rate as a share of the peak: 0.5 as published, 0.1 for the tiny preset."""
    schedule: Literal["quarter-cosine", "half-cosine", "constant"] = "quarter-cosine"
    """From peak to final after the warm-up (paper: quarter period; code: half)."""
    warmup: NotNegative | None = None
    """Steps of linear warm-up; default 10,000, at most a twentieth of the run."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-7
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient (0: no clipping, as published)."""


class DataConfig(StageConfig):
    """Which samples, and how they are read."""

    split: str | None = None
    """Train on this split; default `train` where the store has it, else every sample."""
    workers: NotNegative = 0
    """Processes that read the store; 0 reads in the training process."""
    prefetch: Positive = 4
    """Batches each worker prepares ahead."""
    cache_gb: Annotated[float, Field(ge=0)] = 1.0
    """Keep samples in memory once read, up to this size per reading process."""
    verify: bool = True
    """Compare each sample with its digest the first time that a process reads it: what a disk or a copy has
    damaged ends the run instead of training the model."""


class ValidationConfig(StageConfig):
    """Zero-shot retrieval during training."""

    split: str | None = None
    """Split to validate on; default `val` where the store has it."""
    every: NotNegative = 500
    """Steps between validations, besides the last step (0: never)."""
    samples: Positive = 1000
    """At most so many clips of the split."""


class CheckpointConfig(StageConfig):
    """When to save, and how much to keep."""

    every: Positive = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: Positive = 2
    """Newest checkpoints to keep, besides the best."""
    keep_steps: tuple[Positive, ...] = ()
    """Steps to save at and to keep whatever comes after, such as an early one for `curriculum score`."""


class PretrainConfig(StageConfig):
    """`harmonize pretrain`."""

    model: AnyModel = ModelConfig()
    inputs: InputsConfig = InputsConfig()
    loss: LossConfig = LossConfig()
    harmonize: HarmonizeConfig = HarmonizeConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    batch: Annotated[int, Field(ge=2)] = 64
    """Clips per step, over all ranks."""
    steps: Positive | None = None
    """Length of the run; default 1000 where epochs isn't given either."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Length of the run in passes over the data, instead of steps."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward pass; weights, losses and the harmonization's inner products stay in float32."""
    accumulate: Positive = 1
    """Make the batch in so many parts, one after the other. Each part has only its own negatives."""
    chunk: Positive | None = None
    """Large batches on small memory: encode so many clips at a time, with the negatives of the whole batch.
    The same gradients (and per-sample conflicts) for one more forward pass; each chunk draws a DropToken
    permutation of its own."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """torch.compile of the transformer."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an average of the weights, which is then what is validated and saved (0: none)."""
    max_bad_steps: NotNegative = 10
    """Steps without a finite gradient are left out and noted in bad_steps.jsonl; more of them end the run."""
    log_every: Positive = 10
    """Steps per line of metrics.jsonl."""
    loggers: tuple[str, ...] = ()
    """Besides metrics.jsonl: tensorboard (extra tensorboard), or those of installed packages."""

    @model_validator(mode="before")
    @classmethod
    def _named_logger(cls, values: Any) -> Any:
        """`tensorboard: true` of earlier versions."""
        if isinstance(values, dict) and "tensorboard" in values:
            wanted = values["tensorboard"]
            values = {name: value for name, value in values.items() if name != "tensorboard"}
            if wanted is True:
                values["loggers"] = [*values.get("loggers", ()), "tensorboard"]
            elif wanted is not False:
                raise ValueError("tensorboard: give loggers: [tensorboard]")
        return values

    @model_validator(mode="after")
    def _one_length(self) -> "PretrainConfig":
        if self.steps and self.epochs:
            raise ValueError("give steps or epochs, not both")
        if self.batch % self.accumulate or self.batch // self.accumulate < 2:
            raise ValueError(f"accumulate: {self.batch} clips can't be made in {self.accumulate} equal parts")
        if self.chunk and (self.batch % self.chunk or self.accumulate > 1 or self.precision == "fp16"):
            raise ValueError(
                f"chunk: {self.chunk} must divide batch {self.batch}, and goes without accumulate and fp16"
            )
        return self

    @property
    def peak_lr(self) -> float:
        """`optim.lr`, resolved."""
        return self.optim.lr or (1e-3 if self.model.tiny else 1e-4)

    @property
    def final_share(self) -> float:
        """`optim.final`, resolved."""
        return self.optim.final if self.optim.final is not None else 0.1 if self.model.tiny else 0.5


class FinetuneConfig(StageConfig):
    """Defaults are VATT's for Kinetics-400, video."""

    modality: Literal["video", "audio"] = "video"
    """Which input is classified; DropToken is off, whatever the run used."""
    label: int = Field(default=0, ge=0)
    """Which of a sample's labels, from 0."""
    train: str = "train"
    """Training split(s)."""
    steps: int = Field(default=100_000, ge=1)
    """Length of the run."""
    batch: int = Field(default=64, ge=1)
    """Clips per step."""
    lr: float = Field(default=0.005, gt=0)
    """Peak learning rate of SGD; then a half cosine to zero."""
    warmup: int = Field(default=2500, ge=0)
    """Steps of linear warm-up."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; there is no weight decay."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing."""
    clip: float = Field(default=0.75, ge=0)
    """Largest norm of the backbone's gradient (0: none); the classifier's is left as it is."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Before the classifier."""
    windows: int = Field(default=4, ge=1)
    """Of a test clip; logits are averaged."""
    crops: int = Field(default=3, ge=1)
    """Squares of a test frame that is not square, along its longer side; logits are averaged."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of classifier, order, windows and augmentation."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints: what a kill may cost."""
    log_every: int = Field(default=10, ge=1)
    """Steps per line of metrics.jsonl."""
