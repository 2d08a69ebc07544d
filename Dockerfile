# The command line in a container; results, cache and data are mounted:
#   docker build -t tfkd .
#   docker run --gpus all --shm-size 4g -v "$PWD:/work" tfkd run --student resnet8 --method tf-reg --dataset digits
# Without a GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t tfkd .
FROM python:3.11-slim
ARG TORCH_INDEX=""
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tfkd
COPY pyproject.toml README.md LICENSE ./
COPY tfkd_cli tfkd_cli
COPY paper_tables paper_tables
COPY slurm slurm
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} .
ENV TFKD_CACHE=/work/cache TFKD_RESULTS=/work/results
WORKDIR /work
ENTRYPOINT ["tfkd"]
CMD ["--help"]
