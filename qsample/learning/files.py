"""What the files of a run hold beside checkpoints: strict JSON, and the digest of the data."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor


def strict_json(value: Any) -> str:
    """JSON that every reader takes: what is infinite or undefined becomes null."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))


def digest(data: Tensor) -> str:
    """What tells one set of rows from another: 16 hexadecimal digits."""
    values = data.detach().to("cpu", torch.int8).contiguous().numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]
