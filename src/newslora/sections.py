"""The sections of the settings: every name, its range, its default and what it does."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from newslora.values import Count, Layers, Names, Pattern, Positive, Seeds, Share


class Section(BaseModel):
    """Settings that belong together: frozen, and no other names than these."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class DataConfig(Section):
    """Where the articles come from, how they are cleaned, filtered and cut into tokens."""

    train: str = "sample"
    """Training table: a CSV, TSV, JSONL or Parquet file (also .gz), a hub data set's id, or `sample`."""
    validation: str | None = None
    """Validation table; without one, a stratified share of the training rows is set aside."""
    test: str | None = None
    """Test table: read once after training, never used to choose anything."""
    text: Names | None = None
    """Text columns, joined in this order; found by name and content when not given."""
    label: str | None = None
    """Label column; found by name and content when not given."""
    multi_label: bool = False
    """Articles may carry several labels: a list (JSON Lines, Parquet), or text with `data.separator` between."""
    separator: Annotated[str, Field(min_length=1, max_length=8)] = "|"
    """Stands between the labels of an article, with `data.multi_label`."""
    hierarchy: Annotated[str, Field(min_length=1, max_length=8)] | None = None
    """Stands between the topics of a label such as `Sports/Tennis`, which an article carries with all above it."""
    classes: Names | None = None
    """Label names for integer labels, in order (a `classes.txt` beside the file does the same)."""
    train_split: str = "train"
    """Split of a hub data set to train on."""
    validation_split: str = "validation"
    """Split of a hub data set named by `data.validation`."""
    test_split: str = "test"
    """Split of a hub data set named by `data.test`."""
    configuration: str | None = None
    """Configuration (subset) of a hub data set."""
    revision: str | None = None
    """Revision (commit, tag or branch) of a hub data set."""
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the training rows set aside for validation when no validation table is given."""
    limit: Count | None = None
    """Train on this many rows at most, drawn by seed with each class's share kept."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens kept of an article, special tokens included."""
    min_tokens: Annotated[int, Field(ge=0)] = 5
    """Training rows with fewer tokens are dropped (special tokens included)."""
    max_tokens: Count = 512
    """Training rows with more tokens are dropped."""
    min_letters: Share = 0.5
    """Training rows with a smaller share of letters among their non-blank characters are dropped."""
    near_duplicates: bool = True
    """Drop training rows that all but repeat an earlier one (same word shingles after normalising)."""
    drop: str | None = None
    """CSV of `newslora audit` on the training table: the rows that it flags are dropped."""
    drop_agency: bool = False
    """Remove news agencies' names such as "(Reuters)" and "AP -", which give the source away."""
    streaming: bool = False
    """Read training rows while training, from a folder of Parquet files or a hub data set that may exceed the disk."""
    buffer: Count = 10_000
    """Rows of a stream read, filtered and shuffled at a time."""


class ModelConfig(Section):
    """The frozen backbone and the head on its first token."""

    backbone: str = "minilm"
    """Hub id, local folder, or the packaged alias `minilm`."""
    revision: str | None = None
    """Revision (commit, tag or branch) of a hub backbone."""
    layers: Layers | None = None
    """Layers of the backbone that are kept, such as `0,2,4`; all when not given."""
    quantization: Literal["none", "int8", "nf4"] = "none"
    """Bits of the frozen layers' linear weights: full precision, 8 (LLM.int8()'s rows), or 4 (QLoRA's NormalFloat)."""
    head: Literal["full", "lora", "linear"] = "lora"
    """`full`: the stock head is trained; `lora`: LoRA on its dense layer, output layer whole; `linear`: output only."""
    dropout: Share | None = 0.0
    """Dropout in the frozen backbone and the head; `null` keeps the backbone's own."""


class LoraConfig(Section):
    """The low-rank update of the backbone's linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    targets: Names = ("query", "value")
    """Of query, key, value, attention-output, intermediate, output; or `attention`, `all-linear`."""
    r: Count = 8
    """Rank of the update."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scaling numerator; see `lora.scaling`."""
    scaling: Literal["alpha/r", "rslora", "alpha"] = "alpha/r"
    """Factor on the update: alpha/r (Hu et al., peft), alpha/sqrt(r) (rsLoRA), or the paper's literal alpha."""
    dropout: Share = 0.0
    """Dropout on the input of the low-rank branch."""
    layers: Layers | None = None
    """Layers that get LoRA, such as `3-5`, counted from 0 among those kept; all when not given."""
    ranks: Pattern[Count] = {}
    """Ranks other than `lora.r`, by target, layers, or both: `value: 16`, `0-2: 4`, `5.query: 32`; the last wins."""
    alphas: Pattern[Positive] = {}
    """Alphas other than `lora.alpha`, written as `lora.ranks`."""
    allocation: Literal["none", "gradient"] = "none"
    """`gradient` shares the parameters of rank `lora.r` out among the modules anew, by their gradients' spectra."""
    init: Literal["default", "pissa", "olora", "eva", "loftq"] = "default"
    """Start of the matrices: noise and zero, PiSSA, OLoRA, EVA on training rows, or LoftQ for a quantised backbone."""
    dora: bool = False
    """Train each weight's magnitude apart from its direction (DoRA, Liu et al. 2024, arXiv 2402.09353)."""
    budget: Count = 1_000_000
    """Most trainable parameters allowed, head included."""


class TrainConfig(Section):
    """The optimisation."""

    epochs: Count = 3
    """Passes over the training rows; of a stream, the parts that its steps are cut into, each with a validation."""
    steps: Count | None = None
    """Steps in all, with `data.streaming` alone."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps moments in 8 bits, for matrices of 4,096 numbers or more (arXiv 2110.02861)."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate of AdamW."""
    b_lr_ratio: Annotated[float, Field(ge=1)] = 1.0
    """Learning rate of LoRA's matrices B over that of all else (LoRA+, Hayou et al. 2024, arXiv 2402.12354)."""
    batch_size: Count = 32
    """Articles a step (of each process, before accumulation)."""
    batch_tokens: Count | None = None
    """Tokens a step at most: batches of short articles grow, of long ones shrink; replaces `train.batch_size`."""
    accumulation: Count = 1
    """Batches whose gradients are averaged before a step."""
    schedule: Literal["cosine", "linear", "constant", "cosine-restarts"] = "cosine"
    """Decay of the learning rate; `cosine-restarts` is SGDR (Loshchilov & Hutter 2017)."""
    warmup: Share = 0.06
    """Share of the steps over which the learning rate rises linearly from 0."""
    restarts: Count = 3
    """Cycles of `cosine-restarts`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay."""
    l2: Annotated[float, Field(ge=0)] = 0.0
    """Factor of an explicit L2 term (l2/2 times the squared norm of the trainable parameters) added to the loss."""
    loss: Literal["cross-entropy", "gce"] = "cross-entropy"
    """`gce` withstands wrong labels: generalised cross-entropy at q = 0.7 (Zhang & Sabuncu 2018)."""
    label_smoothing: Share = 0.0
    """Probability mass spread evenly over all classes in the target."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each class by the inverse of its frequency."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Greatest norm of the gradient; `null` leaves it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic: `auto` is bf16 on a GPU that has it, fp32 elsewhere."""
    patience: Count | None = None
    """Stop after this many epochs without a better validation result."""
    best_by: Literal["macro_f1", "loss"] = "macro_f1"
    """Validation figure that chooses the epoch to keep."""
    engine: Literal["packed", "padded"] = "packed"
    """`packed` runs articles back to back without padding where the backbone's family allows; `padded` is stock."""
    prefix_cache: bool = True
    """Run the layers below the first LoRA layer once per article and keep their output."""
    warm_head: bool = True
    """Start the output layer from linear discriminant analysis of the frozen features instead of noise."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split, the batches, the initial weights and dropout."""
    seeds: Seeds | None = None
    """Train once with each of these seeds, such as `0,1,2,3,4`, and report mean, spread and interval."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes between checkpoints; one is written at each epoch's end too."""
    checkpoint_steps: Count | None = None
    """Steps between checkpoints, in addition."""
    greatest_loss: Annotated[float, Field(gt=0)] = 1000.0
    """Mean loss of a step above which training counts as diverged, as it does when a number is not finite."""
    on_divergence: Literal["stop", "skip"] = "stop"
    """`stop` at a step that diverges, or `skip` it: its rows are named and its update is left out."""
    trackers: Names = ()
    """Trackers fed through accelerate: tensorboard, wandb, mlflow, trackio."""


class DistillConfig(Section):
    """What is learned from an earlier run (Hinton et al. 2015, arXiv 1503.02531)."""

    teacher: str | None = None
    """Run folder whose probabilities are learned beside the labels."""
    temperature: Annotated[float, Field(ge=1)] = 2.0
    """Temperature of both sides' probabilities."""
    share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    """Share of the loss on the teacher's probabilities; the rest is on the labels."""
    unlabelled: str | None = None
    """Table of further texts that the teacher alone labels."""
    hidden: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the distance between student's and teacher's features (Sun et al. 2019, arXiv 1908.09355)."""
