"""What vLLM loads of ours, so that one server plays base, communities and MoErges from one copy of the base.

| file | its idea |
|---|---|
| `config.py` | what the server is told of the palette: `--additional-config` |
| `model.py` | the base's own model with a coloured FFN in each layer |
| `worker.py` | runs beside the model, in each of vLLM's workers |
| `blends.py` | means of router weights over prompts, step by step |
| `endpoint.py` | HTTP: the palette that is served, and the blend of a prompt |
| `no_change/` | an adapter that changes nothing: the base, by name |
| `site/` | what makes all this found by a vLLM in another environment |

A request without an adapter is the MoErges; one with an adapter is that adapter on the base, and the adapter
of `no_change/` is the base itself. So no fault of an adapter can turn the MoErges into the base, and a vLLM
that did not load this plug-in knows no architecture `MoErgesForCausalLM` and refuses to start.

Loaded in vLLM's processes, maybe out of another environment: nothing here needs more than vLLM does.
"""

from __future__ import annotations

ARCHITECTURE = "MoErgesForCausalLM"
PLUGIN = "cultural_palette"
"""The entry points' name, as VLLM_PLUGINS takes it."""


def register() -> None:
    """Entry point of the group `vllm.general_plugins`: called in each of vLLM's processes."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:{ARCHITECTURE}")
