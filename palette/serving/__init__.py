"""vLLM servers for a palette: one that plays base, communities and MoErges from one copy of the base, or,
for a mixture that is written out, one with the base and its adapters and one with the MoErges.

| file | its idea |
|---|---|
| `manifest.py` | what is to be served: base, adapters, MoErges, knobs |
| `checkpoint.py` | a MoErges kept in parts, written as a checkpoint that vLLM loads |
| `devices.py` | what there is to run on, and who gets how much of its memory |
| `install.py` | the Python that has vLLM, which may live in an environment of its own |
| `placing.py` | where each server runs, and the flags that say so |
| `vllm_plugin/` | run inside vLLM: the model that plays every part, the blend |
| `plan.py` | the servers' names, addresses, flags and environment; nothing is started |
| `compose.py` | the same plan as a Docker Compose file |
| `content_names.py` | models under names of their content |
| `kubernetes.py` | several replicas on Kubernetes: manifests |
| `ray_serve_config.py` | several replicas under Ray Serve: its configuration |
| `ray_serve.py` | run by Ray Serve: replicas and the address before them |
| `guard.py` | ends a server when the process that keeps it is killed |
| `processes.py` | a process and its group: started, recognised again, ended whole |
| `probe.py` | whether a server answers, and with which models |
| `state.py` | what was started, on the disk |
| `last_words.py` | why a server died, and the way out |
| `fleet.py` | the servers together: up, status, stop |
| `launch.py` | run by vLLM's Python, not by ours: vLLM's own command line |
"""
