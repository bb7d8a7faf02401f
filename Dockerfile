# The service with a model in it, and the bases for models of your own.
#
#   docker build --build-arg CLIP_MODEL_NAME=clip-ViT-B-32 --build-arg TEXT_MODEL_NAME=clip-ViT-B-32 .
#   ... --build-arg PRECISION=bfloat16      in which it then computes
#   ... --target cuda -t my/clip-cuda       for GPUs: with torch, and the model unconverted
#   ... --target custom -t my/clip:custom   no model: converts and serves what is put into it
#   ... --target serving                    no model: for one that was converted elsewhere
#   ... --secret id=hf_token,env=HF_TOKEN   for gated models
# openvino's wheels for arm64 need glibc 2.35 or newer; this Debian's is 2.41.
ARG PYTHON_IMAGE=python:3.11-slim-trixie

FROM ${PYTHON_IMAGE} AS base
LABEL org.opencontainers.image.title="multi2vec-clip-service" \
      org.opencontainers.image.description="Vectors of texts and images, and scores of documents, for Weaviate's modules" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="0.1.0"
# HOME: a place that every user may write to, also where the root file system is read-only.
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# Group 0 may do what the user may: Kubernetes may run the container as any user of that group.
RUN useradd --uid 10001 --gid 0 --home-dir /app --no-create-home service \
 && mkdir models && chown 10001:0 . models && chmod g+rwX . models
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=2s --start-period=120s CMD ["python3", "/app/healthcheck.py"]
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["exec python3 app.py"]

# Torch and the model libraries beside what serves; from pip's own index, so for GPUs.
FROM ${PYTHON_IMAGE} AS whole
ARG TORCH_INDEX_URL=
WORKDIR /build
COPY requirements.txt requirements-redis.txt ./
COPY cicd/install_requirements.sh cicd/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /venv && cicd/install_requirements.sh /venv/bin/pip install \
 && /venv/bin/pip install -r requirements-redis.txt

# Compiled once: a start could not keep what it compiles.
FROM ${PYTHON_IMAGE} AS code
WORKDIR /app
COPY . .
RUN python3 -m compileall -q .

# The base of images with a model of your own, which it converts and serves, on CPUs and GPUs.
#
#   FROM semitechnologies/multi2vec-clip:custom
#   RUN CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
FROM base AS custom
COPY --from=whole /venv /venv
COPY --from=code /app .

FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
COPY requirements-serve.txt requirements-redis.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /venv \
 && /venv/bin/pip install -r requirements-serve.txt -r requirements-redis.txt

# Fetches the model and looks whether it works, by torch's CPU flavour, and on the machine that
# builds, whatever machine the image is for. Nothing of this stage but the model is in an image.
FROM --platform=$BUILDPLATFORM ${PYTHON_IMAGE} AS original
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PATH=/venv/bin:$PATH
WORKDIR /build
COPY requirements.txt .
COPY cicd/install_requirements.sh cicd/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /venv && cicd/install_requirements.sh /venv/bin/pip install
WORKDIR /app
COPY download.py config.py errors.py machine.py ./
COPY fetch fetch
COPY backends backends
ARG CLIP_MODEL_NAME=
ARG CLIP_MODEL_REVISION=
ARG TEXT_MODEL_NAME=
ARG TEXT_MODEL_REVISION=
ARG CLIP_MODEL_TYPE=
ARG OPEN_CLIP_MODEL_NAME=
ARG OPEN_CLIP_PRETRAINED=
ARG OPEN_CLIP_REVISION=
ARG SIGLIP_MODEL_NAME=
ARG SIGLIP_MODEL_REVISION=
ARG COLPALI_ENGINE_MODEL_NAME=
ARG COLPALI_ENGINE_MODEL_REVISION=
ARG QWEN_ENGINE_MODEL_NAME=
ARG QWEN_ENGINE_MODEL_REVISION=
ARG MODEL_NAME=
ARG MODEL_REVISION=
ARG USE_QUERY_PASSAGE_PREFIXES=
ARG USE_SENTENCE_TRANSFORMERS_VECTORIZER=
ARG ONNX_RUNTIME=
ARG TRUST_REMOTE_CODE=
ARG HF_ENDPOINT=
# Of an empty HF_ENDPOINT the hub's library would make no address at all.
RUN --mount=type=secret,id=hf_token \
    [ -n "$HF_ENDPOINT" ] || unset HF_ENDPOINT; \
    HF_TOKEN="$(cat /run/secrets/hf_token 2>/dev/null)" RUNTIME=torch ./download.py

FROM original AS converted
ARG TEXT_MODE=
ARG PRECISION=
RUN ./download.py --convert --export /export

FROM base AS serving
COPY --from=packages /venv /venv
COPY --from=code /app .

FROM base AS cuda
COPY --from=whole /venv /venv
COPY --from=original --chown=10001:0 /app/models models
ARG TEXT_MODE=
ARG PRECISION=
ENV RUNTIME=torch TEXT_MODE=$TEXT_MODE PRECISION=$PRECISION
COPY --from=code /app .

# The weights before the code, so that a change of that leaves their layer alone.
FROM base AS service
COPY --from=packages /venv /venv
COPY --from=converted /export models
# What the model was converted for is what a start should ask for.
ARG TEXT_MODE=
ARG PRECISION=
ENV TEXT_MODE=$TEXT_MODE PRECISION=$PRECISION
COPY --from=code /app .
