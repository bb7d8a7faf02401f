# The service with a model in it; custom.Dockerfile is the same without one.
#
#   docker build --build-arg CLIP_MODEL_NAME=clip-ViT-B-32 --build-arg TEXT_MODEL_NAME=clip-ViT-B-32 .
#   ... --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu   without CUDA
#   ... --build-arg RUNTIME=torch                                          for GPUs: nothing converted
#   ... --secret id=hf_token,env=HF_TOKEN                                  for gated models
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS packages
ARG TORCH_INDEX_URL=
WORKDIR /build
COPY requirements.txt .
# torch first: its CPU flavour has an index of its own.
RUN python3 -m venv /venv \
 && grep -oE '^(torch|torchvision)==[^ ;]+' requirements.txt > torch.txt \
 && /venv/bin/pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
      -r torch.txt \
 && /venv/bin/pip install --no-cache-dir -r requirements.txt

FROM ${PYTHON_IMAGE} AS base
COPY --from=packages /venv /venv
# HOME: a place that every user may write to, also where the root file system is read-only.
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# Group 0 may do what the user may: Kubernetes may run the container as any user of that group.
RUN useradd --uid 10001 --gid 0 --home-dir /app --no-create-home service \
 && mkdir models && chown 10001:0 . models && chmod g+rwX . models
COPY download.py config.py errors.py machine.py ./
COPY fetch fetch
COPY backends backends
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=2s --start-period=120s CMD ["python3", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/.well-known/ready' % os.environ.get('PORT', '8080'))"]
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["exec python3 app.py"]

# The weights, before the rest of the code: a change of that fetches nothing anew.
FROM base AS service
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
ARG MODEL_NAME=
ARG MODEL_REVISION=
ARG USE_QUERY_PASSAGE_PREFIXES=
ARG USE_SENTENCE_TRANSFORMERS_VECTORIZER=
ARG TRUST_REMOTE_CODE=
ARG TEXT_MODE=
ARG RUNTIME=
ARG HF_ENDPOINT=
# Of an empty HF_ENDPOINT the hub's library would make no address at all.
RUN --mount=type=secret,id=hf_token,uid=10001 \
    [ -n "$HF_ENDPOINT" ] || unset HF_ENDPOINT; \
    HF_TOKEN="$(cat /run/secrets/hf_token 2>/dev/null)" ./download.py
# What the model was converted for, or not, is what a start should ask for.
ENV TEXT_MODE=$TEXT_MODE RUNTIME=$RUNTIME
COPY . .
