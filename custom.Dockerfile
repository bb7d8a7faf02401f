# A small image with a model of your own: it is copied from folders, converted, and served without
# torch. The bases come from `Dockerfile`:
#
#   docker build --target custom -t semitechnologies/multi2vec-clip:custom .
#   docker build --target serving -t multi2vec-clip-service:serving .
#
# Then, where `my-text-model` and `my-clip-model` lie:
#
#   docker build -f custom.Dockerfile -t my/clip .
#
# docs/images.md has the other ways, such as two lines on the first base.
FROM semitechnologies/multi2vec-clip:custom AS converted
COPY ./my-text-model /app/models/text
COPY ./my-clip-model /app/models/clip
RUN ./download.py --convert --export /tmp/export

FROM multi2vec-clip-service:serving
COPY --from=converted /tmp/export /app/models
