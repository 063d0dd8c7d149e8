"""The smallest run of the command line: attention on planted tokens."""

from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def words(command="fit", *more, epochs=2):
    return [
        command,
        "-c",
        str(CONFIGS / "pooling" / "planted.yaml"),
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        f"--trainer.max_epochs={epochs}",
        *more,
    ]
