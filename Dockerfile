# CPU:  docker build -t ccella .
# GPU:  docker build -t ccella:gpu --build-arg BASE_IMAGE=<image with CUDA and Python 3.11> --build-arg EXTRA=gpu .
# TORCH_INDEX names a package index for torch alone, such as the one with CPU builds.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

ARG EXTRA=cpu
ARG TORCH_INDEX=""

ENV PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The large packages change seldom: they stay in a layer of their own.
COPY constraints.txt /tmp/constraints.txt
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --quiet -c /tmp/constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch

COPY . /opt/ccella
RUN /opt/venv/bin/pip install --quiet -c /tmp/constraints.txt "/opt/ccella[${EXTRA}]" \
    && rm -rf /opt/ccella /tmp/constraints.txt \
    && useradd --create-home --uid 1000 ccella \
    && mkdir -p /work /cache \
    && chown ccella:ccella /work /cache

# Any user id may run the container (docker run --user): nothing is written to HOME or to the installation.
ENV PATH="/opt/venv/bin:${PATH}" \
    HF_HOME=/cache

USER ccella
WORKDIR /work
ENTRYPOINT ["ccella"]
CMD ["--help"]
