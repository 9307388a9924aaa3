"""What the device could do at most: `python -m benchmarks.train.peak` prints it as JSON.

Of a known GPU the data sheet's dense rate in bfloat16; of anything else the best of several large matrix products.
"""

from __future__ import annotations

import json
import time

import torch

DATA_SHEETS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "4090": 165e12,
}
"""Dense bfloat16 rates in operations a second (NVIDIA's data sheets, without sparsity), by a part of the name; the
first that fits counts."""
_SIZE, _REPEATS = 2048, 30


def main() -> None:
    """Prints the device's name, its number, and its peak."""
    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else "processor"
    known = next((rate for part, rate in DATA_SHEETS.items() if part in name), None) if on_gpu else None
    capabilities = {} if on_gpu else torch.cpu.get_capabilities()
    bfloat16 = on_gpu or any(capabilities.get(kind) for kind in ("avx512_bf16", "amx_bf16", "bf16"))
    print(
        json.dumps(
            {
                "device": name,
                "num_devices": torch.cuda.device_count() if on_gpu else 0,
                "precision": "bfloat16" if bfloat16 else "float32",
                "peak_flops": known or _measured(torch.bfloat16 if bfloat16 else torch.float32),
                "peak_is": "data sheet, dense bfloat16" if known else f"best matrix product of {_SIZE} x {_SIZE}",
            }
        )
    )


def _measured(dtype: torch.dtype) -> float:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(_SIZE, _SIZE, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        product = left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
        del product
    return 2 * _SIZE**3 / best


if __name__ == "__main__":
    main()
