"""Attention from the softmax up: small reference implementations to read and run."""

from attnlib.attention import (
    StdAttentionCord,
    attention_oracle,
    online_attention,
    online_attention_backward,
    standard_attention,
)
from attnlib.flash import FlashAttentionCore, flash_attention
from attnlib.softmax import (
    SoftmaxState,
    blocked_softmax,
    calculate_local_fx,
    decomposed_softmax,
    naive_softmax,
    online_softmax,
    safe_softmax,
)
