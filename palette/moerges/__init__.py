"""One base, many colours: base, community agents and MoErges as one forward pass over one copy of the base.

An expert is the base's FFN plus a low-rank change, W_C = W + B_C A_C. With every expert active the mixture
factors, so nothing but the changes and the router is held beside the base:

    g = W_gate x,  u = W_up x                                  once
    h_C = act(g + B_C^gate A_C^gate x) * (u + B_C^up A_C^up x)
    out = W_down (sum_C G_C h_C) + sum_C G_C B_C^down A_C^down h_C

| file | its idea |
|---|---|
| `modes.py` | what a row of a batch is: the base, an agent, the MoErges, a fixed blend |
| `peft_settings.py` | which settings of PEFT leave W + B A exact |
| `peft_weights.py` | which tensors a PEFT LoRA holds, checked against its settings |
| `headers.py` | names and shapes of a safetensors file's tensors |
| `quantised.py` | whether a model's weights are stored quantised |
| `adapters.py` | a PEFT LoRA folder as low-rank changes |
| `layer.py` | the FFN above, weighted per token |
| `model.py` | the layers put into a transformers model, and the modes of a batch |
| `router.py` | router rows by name, on disk and in memory |
| `prompts.py` | prompts that router rows are fitted on and tested on |
| `fitting.py` | router rows as a linear discriminant, and what they are worth |

`modes.py`, `peft_settings.py`, `peft_weights.py`, `headers.py`, `quantised.py` and `prompts.py` need no
torch; the others import it, and are imported by those who run a model.
"""
