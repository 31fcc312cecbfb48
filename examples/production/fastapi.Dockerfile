FROM python:3.12-slim
WORKDIR /app
COPY . /source
RUN pip install --no-cache-dir "/source[postgres]" "fastapi>=0.110" "uvicorn>=0.30" && \
    cp /source/examples/fastapi/app.py /app/ && rm -r /source
USER nobody
CMD ["uvicorn", "app:app", "--host", "0.0.0.0", "--port", "8000", "--no-access-log"]
