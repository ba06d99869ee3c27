# CPU:  docker build -t ccella .
# GPU:  docker build -t ccella:gpu --build-arg EXTRA=gpu .
#   BASE_IMAGE   any image with Python 3.11 or later and its venv module; torch brings its own CUDA libraries
#   EXTRA        cpu or gpu: which ONNX Runtime, and TensorRT
#   TORCH_INDEX  package index for torch alone, such as the one with CPU builds (the default one serves CUDA builds)
#   TORCH_LOCK   1: torch is the public CUDA build, checked like everything else; empty: as pip's configuration has it
# Targets: runtime (the default) and train, which adds TensorBoard. See docs/docker.md.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS dependencies
ARG EXTRA=cpu
ARG TORCH_INDEX=""
ARG TORCH_LOCK=1
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# pip stays outside of what the final image takes over.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
# The largest package changes seldom: its layer stays when others change. A torch from elsewhere than the public index
# has other digests, so it is held to its version alone.
COPY constraints.txt requirements/torch.lock /build/
RUN if [ -n "${TORCH_LOCK}" ] && [ -z "${TORCH_INDEX}" ]; then set -- --require-hashes -r /build/torch.lock; \
    else set -- -c /build/constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch; fi \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-deps "$@"
COPY requirements/${EXTRA}.lock /build/
# The second line brings what the chosen torch needs and no lock knows, the third TensorRT, which cannot be locked.
RUN /opt/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-deps --require-hashes -r "/build/${EXTRA}.lock" \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --quiet -c /build/constraints.txt \
        ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch \
    && if [ "${EXTRA}" = gpu ]; then /opt/pip/bin/pip --python /opt/venv/bin/python install --quiet \
        -c /build/constraints.txt 'tensorrt>=10.1,<11'; fi \
    && /opt/pip/bin/pip --python /opt/venv/bin/python check \
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/include \
    && find /opt/venv/lib -type d -name tests -prune -exec rm -rf {} +

# The program has a layer of its own, so that a new version is a few megabytes.
FROM dependencies AS program
COPY requirements/build.lock /build/
RUN /opt/pip/bin/pip install --quiet --no-deps --require-hashes -r /build/build.lock
COPY . /build/source/
RUN /opt/pip/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /build/wheel /build/source \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-deps --target /opt/ccella /build/wheel/*.whl \
    && chmod -R a+rX /opt/ccella

FROM dependencies AS train-dependencies
COPY requirements/train.lock /build/
RUN /opt/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-deps --require-hashes -r /build/train.lock

FROM ${BASE_IMAGE} AS base
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="ccella" \
      org.opencontainers.image.description="Labelled synthetic medical images from models that labs train themselves" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Any user id may run it, over a read-only root: HOME and temporary files are in /tmp, weights in /cache, and the user
# has a name although the id has no account.
ENV PATH="/opt/ccella/bin:/opt/venv/bin:${PATH}" \
    PYTHONPATH=/opt/ccella \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=ccella \
    HF_HOME=/cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN mkdir -p /data /cache && chmod 1777 /data /cache
HEALTHCHECK NONE
WORKDIR /data
ENTRYPOINT ["ccella"]
CMD ["--help"]

FROM base AS train
COPY --from=train-dependencies /opt/venv /opt/venv
COPY --from=program /opt/ccella /opt/ccella
USER 10001:10001

FROM base AS runtime
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=program /opt/ccella /opt/ccella
USER 10001:10001
