# A small image with several models, each of an image of its own that was built before:
#
#   docker build -t my/model:clip --build-arg CLIP_MODEL_NAME=clip-ViT-B-32 --build-arg TEXT_MODEL_NAME=clip-ViT-B-32 .
#   docker build -t my/model:minilm --build-arg MODEL_NAME=sentence-transformers/all-MiniLM-L6-v2 .
#   docker build -t my/model:reranker --build-arg MODEL_NAME=cross-encoder/ms-marco-MiniLM-L-6-v2 .
#   docker build -t multi2vec-clip-service:serving --target serving .
#   docker build -f several.Dockerfile -t my/models .
#
# The folder's name is the model's. docs/several-models.md says how each is asked.
FROM my/model:clip AS clip
FROM my/model:minilm AS minilm
FROM my/model:reranker AS reranker

FROM multi2vec-clip-service:serving
COPY --from=clip /app/models /app/models/clip
COPY --from=minilm /app/models /app/models/minilm
COPY --from=reranker /app/models /app/models/reranker
ENV DEFAULT_MODEL=clip
