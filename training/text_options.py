"""Options of text encoder training."""

from dataclasses import dataclass

from .config import LR_SCHEDULES, WEIGHTS_DTYPES, LoopTraining, option
from .text_networks import EncoderShape


@dataclass(frozen=True, kw_only=True)
class TextEncoderTraining(LoopTraining):
    """Options of text encoder training.

    Attributes:
        steps: Steps on plain reports and brief texts.
        late_steps: Further steps on texts that name more than one place or side, with a warm-up and decay of their own
            from two thirds of the peak rate. Nothing before them depends on their number.
        validation_items: Held-out reports that the figures are measured on.
        tokenizer_reports: Reports that the tokenizer is trained on.
        width: Features per token; what the model's denoiser expects.
        head_width: Features of an attention head.
        heads: Attention heads per layer.
        hidden: Width of the layers' MLPs.
        layers: Transformer layers.
        vocabulary: Tokens.
        window: Most tokens of a text; its beginning is cut off.
    """

    steps: int = option(2000, minimum=1)
    late_steps: int = option(0, minimum=0)
    batch_size: int = option(24, minimum=1)
    learning_rate: float = option(3e-3, above=0)
    lr_schedule: str = option("cosine", choices=LR_SCHEDULES)
    warmup_steps: int = option(100, minimum=0)
    beta2: float = option(0.98, minimum=0, maximum=1)
    ema_decay: float = option(0.0, minimum=0, maximum=1)
    weights_dtype: str = option("float16", choices=WEIGHTS_DTYPES)
    validation_items: int = option(1000, minimum=2)
    validate_every: int = option(0, minimum=0)
    tokenizer_reports: int = option(4000, minimum=1)
    width: int = option(128, minimum=1)
    head_width: int = option(32, minimum=1)
    heads: int = option(4, minimum=1)
    hidden: int = option(256, minimum=1)
    layers: int = option(3, minimum=1)
    vocabulary: int = option(1536, minimum=1)
    window: int = option(512, minimum=1)

    @property
    def last_step(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps + self.late_steps

    @property
    def shape(self) -> EncoderShape:
        """Size of the encoder and its tokenizer."""
        return EncoderShape(
            self.width, self.head_width, self.heads, self.hidden, self.layers, self.vocabulary, self.window
        )
