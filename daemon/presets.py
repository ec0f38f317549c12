"""Whole configurations to begin with: the shapes of `contract.model.PRESETS` with settings that suit their size.

The demo's numbers, all of them, are in `tiny`.
"""

from adam.contract.config import Checkpoint, Config, Trainer
from adam.contract.config_filters import FilterOverrides
from adam.contract.config_forge import Forge, Phase, Source
from adam.contract.config_skeletons import Skeletons
from adam.contract.model import PRESETS, ModelConfig, parameter_count, resolved

# Two CPU cores, minutes. batch_size x seq_len is small so that a hang shows within seconds.
TINY = Config(
    model=PRESETS["tiny"],
    forge=Forge(val_fraction=0.02),
    trainer=Trainer(
        steps=400,
        seq_len=256,
        batch_size=4,
        micro_batch=4,
        lr=3e-3,
        min_lr=3e-4,
        warmup_steps=30,
        eval_every=100,
        eval_tokens=65_536,
    ),
    checkpoint=Checkpoint(every_steps=50, every_minutes=1.0),
)

# The upstream sizes have 50,277 ids: those of this tokenizer.
UPSTREAM_TOKENIZER = "EleutherAI/gpt-neox-20b"
# Peak learning rate by width, as GPT-3 (arXiv 2005.14165, table 2.1) and Mamba's paper have them for their sizes.
PEAK_LR = {768: 6e-4, 1024: 3e-4, 1536: 2.5e-4, 2048: 2e-4, 2560: 1.6e-4}
# 2.7B in bf16 takes 65 GiB at 4 x 2048 and 93 GiB at 8 x 2048: the smaller fits an 80 GB GPU.
LARGEST_WIDTH_OF_MICRO_BATCH_8 = 2048


# Adam's mix (January 2026): five million samples of at most 4,096 characters; stories, mathematics, general knowledge that reasons,
# code in five languages; 30 % of the prose as skeletons, 20 % with a search trajectory, code as it is. Two sets are too small for
# their shares. Orca-Math (200,035 rows for a million) is read again, as the guide's script did. The Stack's small sample (50,000
# files for a million and a half) has given way to the whole Stack without near duplicates.
LANGUAGES = ("python", "rust", "c++", "javascript", "go")
ADAM_MIX = Forge(
    tokenizer=UPSTREAM_TOKENIZER,
    sources=(
        Source(id="cosmopedia-stories", cut_chars=4096),
        Source(id="orca-math", cut_chars=4096),
        Source(id="wikipedia", cut_chars=4096, min_chars=501, filters=FilterOverrides(min_reasoning=0.03)),
        *(
            Source(
                id="stack-dedup", name=f"code-{name}", files=(f"data/{name}/*.parquet",), cut_chars=4096, min_chars=201
            )
            for name in LANGUAGES
        ),
    ),
    phases=(
        Phase(
            name="adam",
            shares={"cosmopedia-stories": 0.2, "orca-math": 0.2, "wikipedia": 0.3}
            | {f"code-{name}": 0.06 for name in LANGUAGES},
            target=5_000_000,
            when_dry="repeat",
            repeats=5,
        ),
    ),
    skeletons=Skeletons(enabled=True),
)
MIXES = {"adam": ADAM_MIX}


def preset(name: str) -> Config:
    """The configuration of `--preset NAME`, a key of `contract.model.PRESETS`."""
    shape = PRESETS[name]
    return TINY if name == "tiny" else _upstream(shape)


def _upstream(shape: ModelConfig) -> Config:
    return Config(
        model=shape,
        forge=Forge(tokenizer=UPSTREAM_TOKENIZER),
        trainer=Trainer(
            steps=150_000,
            seq_len=2048,
            batch_size=32,
            micro_batch=8 if shape.d_model <= LARGEST_WIDTH_OF_MICRO_BATCH_8 else 4,
            lr=PEAK_LR[shape.d_model],
            min_lr=1e-5,
            warmup_steps=1500,
            weight_decay=0.05,
            clip=1.0,
        ),
    )


def files_sources(paths: list[str]) -> tuple[Source, ...]:
    """Sources for files and folders of the user's."""
    return tuple(Source(kind="files", path=path) for path in paths)


def parameters(config: Config, tokenizer_size: int = 0) -> int:
    """The parameters of the model. Where its vocabulary is open, the tokenizer's size counts, or the one asked of the forge."""
    size = config.model.vocab_size or tokenizer_size or config.forge.vocab_size
    return parameter_count(resolved(config.model, size))
