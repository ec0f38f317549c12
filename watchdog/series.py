"""What the columns of `metrics.csv` that hold a number are called where they are drawn: a group, and a name in it."""

SERIES = {
    "tokens": "training/tokens",
    "loss": "training/loss",
    "grad_norm": "training/grad_norm",
    "learning_rate": "training/learning_rate",
    "val_loss": "validation/loss",
    "val_bits_per_byte": "validation/bits_per_byte",
    "tokens_per_sec": "speed/tokens_per_sec",
    "mfu": "speed/mfu",
    "step_s": "speed/step_s",
    "data_wait_s": "speed/data_wait_s",
    "gpu_temp_c": "gpu/temp_c",
    "gpu_margin_c": "gpu/margin_c",
    "gpu_memory_temp_c": "gpu/memory_temp_c",
    "gpu_power_w": "gpu/power_w",
    "gpu_power_limit_w": "gpu/power_limit_w",
    "gpu_util": "gpu/util",
    "vram_gb": "gpu/vram_gb",
    "cpu_percent": "host/cpu_percent",
    "ram_gb": "host/ram_gb",
    "disk_free_gb": "host/disk_free_gb",
}
