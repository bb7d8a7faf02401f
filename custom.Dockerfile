# The base of images with a model of your own, which it converts and serves, on CPUs and GPUs;
# Dockerfile makes images with a model in them.
#
#   FROM semitechnologies/multi2vec-clip:custom
#   RUN CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
# openvino's wheels for arm64 need glibc 2.35 or newer; this Debian's is 2.41.
ARG PYTHON_IMAGE=python:3.11-slim-trixie

FROM ${PYTHON_IMAGE} AS base
# HOME: a place that every user may write to, also where the root file system is read-only.
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# Group 0 may do what the user may: Kubernetes may run the container as any user of that group.
RUN useradd --uid 10001 --gid 0 --home-dir /app --no-create-home service \
 && mkdir models && chown 10001:0 . models && chmod g+rwX . models
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=2s --start-period=120s CMD ["python3", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/.well-known/ready' % os.environ.get('PORT', '8080'))"]
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["exec python3 app.py"]

# Torch and the model libraries beside what serves; from pip's own index, so for GPUs.
FROM ${PYTHON_IMAGE} AS whole
ARG TORCH_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.txt .
COPY cicd/install_requirements.sh cicd/
RUN python3 -m venv /venv && cicd/install_requirements.sh /venv/bin/pip

# Compiled once: a start could not keep what it compiles.
FROM ${PYTHON_IMAGE} AS code
WORKDIR /app
COPY . .
RUN python3 -m compileall -q .

FROM base AS service
COPY --from=whole /venv /venv
COPY --from=code /app .
