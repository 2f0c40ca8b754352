"""Attention from the softmax up: small reference implementations to read and run."""

from attnlib.attention import (
    FlashAttentionCore,
    StdAttentionCord,
    attention_oracle,
    flash_attention,
    online_attention,
    standard_attention,
)
from attnlib.softmax import (
    SoftmaxState,
    blocked_softmax,
    calculate_local_fx,
    decomposed_softmax,
    naive_softmax,
    online_softmax,
    safe_softmax,
)
