"""Run by vLLM's Python: `python generate_in_vllm.py jobs.json replies.json`. Each job is an engine of its
own: its arguments, and the prompts that it reads in one batch, each with the adapter it names, or none.
One that can not be made is answered with its error.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import sys
from pathlib import Path

# At the top: a rank of a tensor-parallel engine imports this file anew.
runpy.run_path(str(Path(__file__).parents[2] / "palette" / "serving" / "launch.py"))


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.lora.request import LoRARequest

    replies = []
    for job in jobs:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = job["cores"]
        try:
            llm = LLM(**job["engine"])
        except Exception as error:
            replies.append({"refused": f"{type(error).__name__}: {error}"})
            cleanup_dist_env_and_memory()
            continue
        ids = {folder: number for number, folder in enumerate(job["adapters"], 1)}
        loras = [LoRARequest(f"a{ids[f]}", ids[f], f) if f else None for _, f in job["prompts"]]
        prompts = [{"prompt_token_ids": tokens} for tokens, _ in job["prompts"]]
        sampling = SamplingParams(max_tokens=8, temperature=0.0, logprobs=1, ignore_eos=True)
        outputs = [out.outputs[0] for out in llm.generate(prompts, sampling, lora_request=loras)]
        replies.append(
            [
                {
                    "tokens": list(out.token_ids),
                    "logprobs": [
                        row[token].logprob for row, token in zip(out.logprobs, out.token_ids, strict=True)
                    ],
                }
                for out in outputs
            ]
        )
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()
        print(f"job {len(replies)} of {len(jobs)} done", flush=True)
    Path(sys.argv[2]).write_text(json.dumps(replies))


if __name__ == "__main__":
    main()
