"""The sinks of a run, as they are named and found: what `[sinks]` asks for, and where it is to be seen."""

from adam.contract.config import Config
from adam.contract.paths import RunPaths

PACKAGES = {"prometheus": "prometheus-client", "tensorboard": "tensorboard", "trackio": "trackio"}
MODULES = {"prometheus": "prometheus_client", "tensorboard": "tensorboard", "trackio": "trackio"}
LOCALHOST = "127.0.0.1"


def wheres(paths: RunPaths, config: Config) -> dict[str, str]:
    """By name of each sink that is asked for, where its rows are."""
    places = {
        "prometheus": f"http://{LOCALHOST}:{config.sinks.prometheus_port}/metrics",
        "tensorboard": str(paths.tensorboard),
        "trackio": f"project {config.sinks.trackio}",
    }
    return {name: places[name] for name in config.sinks.wanted}
