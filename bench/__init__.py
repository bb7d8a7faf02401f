"""The benchmark: the service on full-size models beside the bare model on the same machine.

python -m bench                                       # this tree's service, with its ceilings
python -m bench --url http://host:8080 --api reference    # any running container
python -m bench.stages                                # each stage alone, without HTTP
"""
