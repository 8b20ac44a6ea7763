"""Ways of adapting by name: what of a model is trained.

A user's package adds its own through the entry-point group ``zsrobust.tunings``: a class whose keyword arguments are
the way's options, fulfilling :class:`zsrobust.tuning.base.Tuning`.
"""

from zsrobust.registry import Registry

TUNINGS = Registry(
    "tuning",
    {
        "full": "zsrobust.tuning.weights:Full",
        "last-blocks": "zsrobust.tuning.weights:LastBlocks",
        "layernorm": "zsrobust.tuning.weights:LayerNorms",
        "lora": "zsrobust.tuning.lora:LoRA",
        "pixel-prompt": "zsrobust.tuning.prompts:PixelPrompt",
        "token-prompt": "zsrobust.tuning.prompts:TokenPrompt",
        "pixel-token-prompt": "zsrobust.tuning.prompts:PixelTokenPrompt",
    },
)
