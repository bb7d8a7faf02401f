# The base of images with a model of your own; Dockerfile is the same with one in it.
#
#   FROM semitechnologies/multi2vec-clip:custom
#   RUN CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
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

FROM base AS service
COPY . .
