# The service with a model in it; custom.Dockerfile is the same without one.
#
#   docker build --build-arg CLIP_MODEL_NAME=clip-ViT-B-32 --build-arg TEXT_MODEL_NAME=clip-ViT-B-32 .
#   ... --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu   without CUDA
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS packages
ARG TORCH_INDEX_URL=
COPY requirements.txt .
RUN python3 -m venv /venv \
 && /venv/bin/pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url $TORCH_INDEX_URL} \
      $(grep -oE '^(torch|torchvision)==[^ ;]+' requirements.txt) \
 && /venv/bin/pip install --no-cache-dir -r requirements.txt

FROM ${PYTHON_IMAGE}
COPY --from=packages /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# Group 0 may read everything, as Kubernetes may run the container as any user of that group.
RUN useradd --uid 10001 --gid 0 --home-dir /app --no-create-home service \
 && mkdir models && chown 10001:0 . models && chmod g+rwX . models

# The weights first: a change of the code below fetches nothing anew.
COPY config.py download.py catalogue.py catalogue.json ./
COPY inference inference
USER 10001
ARG CLIP_MODEL_NAME= CLIP_MODEL_REVISION= TEXT_MODEL_NAME= TEXT_MODEL_REVISION= CLIP_MODEL_TYPE=
ARG OPEN_CLIP_MODEL_NAME= OPEN_CLIP_PRETRAINED= OPEN_CLIP_REVISION=
ARG SIGLIP_MODEL_NAME= SIGLIP_MODEL_REVISION=
ARG COLPALI_ENGINE_MODEL_NAME= TRUST_REMOTE_CODE=
RUN --mount=type=secret,id=hf_token,env=HF_TOKEN HF_HOME=/tmp/hub ./download.py && rm -rf /tmp/hub

COPY app.py vectorizer.py meta.py ./
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=2s --start-period=120s CMD ["python3", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/.well-known/ready' % os.environ.get('PORT', '8080'))"]
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["exec python3 app.py"]
