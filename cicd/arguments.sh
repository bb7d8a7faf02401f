# Sourced: the build arguments of a model, from the variables of the same names.
# shellcheck shell=bash
arguments=()
for name in CLIP_MODEL_NAME CLIP_MODEL_REVISION TEXT_MODEL_NAME TEXT_MODEL_REVISION \
  CLIP_MODEL_TYPE OPEN_CLIP_MODEL_NAME OPEN_CLIP_PRETRAINED OPEN_CLIP_REVISION \
  SIGLIP_MODEL_NAME SIGLIP_MODEL_REVISION COLPALI_ENGINE_MODEL_NAME TRUST_REMOTE_CODE \
  MODEL_NAME MODEL_REVISION USE_QUERY_PASSAGE_PREFIXES USE_SENTENCE_TRANSFORMERS_VECTORIZER \
  TEXT_MODE RUNTIME TORCH_INDEX_URL HF_ENDPOINT PYTHON_IMAGE; do
  [ -z "${!name:-}" ] || arguments+=(--build-arg "$name=${!name}")
done
[ -z "${HF_TOKEN:-}" ] || arguments+=(--secret "id=hf_token,env=HF_TOKEN")
