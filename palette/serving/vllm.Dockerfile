# vLLM with the plug-in that plays MoErges, for docker-compose.yml and Kubernetes. In the project's folder:
#   docker build -f palette/serving/vllm.Dockerfile -t cultural-palette-vllm:v0.32.0 .
FROM vllm/vllm-openai:v0.32.0
COPY . /tmp/cultural-palette
RUN pip install --no-deps /tmp/cultural-palette && rm -r /tmp/cultural-palette
